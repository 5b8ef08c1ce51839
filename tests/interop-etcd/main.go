// Command interop-etcd is what others do with etcd, for Switchboard's tests: go-micro's own etcd registry, and gRPC's own naming with
// its resolver.
//
//	interop-etcd micro register ADDRESS       registers the service "interop-go" until standard input ends
//	interop-etcd micro get ADDRESS NAME       prints what go-micro reads of NAME, as JSON
//	interop-etcd grpc register ADDRESS NAME   adds an endpoint of NAME until standard input ends
//	interop-etcd grpc resolve ADDRESS NAME    prints the addresses that grpc-go's resolver gives for NAME, as JSON, at each change
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	microetcd "github.com/go-micro/plugins/v4/registry/etcd"
	"go-micro.dev/v4/registry"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	etcdresolver "go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "interop-etcd:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("usage: interop-etcd micro|grpc register|get|resolve ADDRESS [NAME]")
	}
	switch what := args[0] + " " + args[1]; {
	case what == "micro register":
		return microRegister(microetcd.NewRegistry(registry.Addrs(args[2])))
	case what == "micro get" && len(args) == 4:
		services, err := microetcd.NewRegistry(registry.Addrs(args[2])).GetService(args[3])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(services)
	case what == "grpc register" && len(args) == 4:
		return grpcRegister(args[2], args[3])
	case what == "grpc resolve" && len(args) == 4:
		return grpcResolve(args[2], args[3])
	}
	return fmt.Errorf("unknown arguments %q", args)
}

func untilInputEnds() error {
	fmt.Println("registered")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func microRegister(reg registry.Registry) error {
	service := &registry.Service{
		Name:    "interop-go",
		Version: "1.2.3-go",
		Nodes: []*registry.Node{{
			Id:       "interop-go-1",
			Address:  "10.1.2.3:9090",
			Metadata: map[string]string{"protocol": "mucp", "zone": "eu-1"},
		}},
		Endpoints: []*registry.Endpoint{{
			Name:     "Greeter.Hello",
			Request:  &registry.Value{Name: "Request", Type: "Request", Values: []*registry.Value{{Name: "name", Type: "string"}}},
			Response: &registry.Value{Name: "Response", Type: "Response"},
			Metadata: map[string]string{"stream": "false"},
		}},
	}
	if err := reg.Register(service, registry.RegisterTTL(90*time.Second)); err != nil {
		return err
	}
	if err := untilInputEnds(); err != nil {
		return err
	}
	if err := reg.Deregister(service); err != nil {
		return err
	}
	fmt.Println("deregistered")
	return nil
}

func grpcRegister(address, name string) error {
	client, err := clientv3.NewFromURL("http://" + address)
	if err != nil {
		return err
	}
	defer client.Close()
	manager, err := endpoints.NewManager(client, name)
	if err != nil {
		return err
	}
	key := name + "/10.1.2.3:9090"
	endpoint := endpoints.Endpoint{Addr: "10.1.2.3:9090", Metadata: map[string]string{"zone": "eu-1"}}
	if err := manager.AddEndpoint(context.Background(), key, endpoint); err != nil {
		return err
	}
	if err := untilInputEnds(); err != nil {
		return err
	}
	if err := manager.DeleteEndpoint(context.Background(), key); err != nil {
		return err
	}
	fmt.Println("deregistered")
	return nil
}

// told is what grpc-go's resolver tells a connection.
type told struct{}

func (told) UpdateState(state resolver.State) error {
	addresses := []string{}
	for _, endpoint := range state.Endpoints {
		for _, address := range endpoint.Addresses {
			addresses = append(addresses, address.Addr)
		}
	}
	for _, address := range state.Addresses {
		addresses = append(addresses, address.Addr)
	}
	return json.NewEncoder(os.Stdout).Encode(addresses)
}

func (told) ReportError(err error) { fmt.Fprintln(os.Stderr, "resolver:", err) }

func (told) NewAddress([]resolver.Address) {}

func (told) ParseServiceConfig(string) *serviceconfig.ParseResult { return nil }

func grpcResolve(address, name string) error {
	client, err := clientv3.NewFromURL("http://" + address)
	if err != nil {
		return err
	}
	defer client.Close()
	builder, err := etcdresolver.NewBuilder(client)
	if err != nil {
		return err
	}
	target, err := url.Parse("etcd:///" + name)
	if err != nil {
		return err
	}
	resolver, err := builder.Build(resolver.Target{URL: *target}, told{}, resolver.BuildOptions{})
	if err != nil {
		return err
	}
	defer resolver.Close()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
