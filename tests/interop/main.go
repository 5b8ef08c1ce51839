// Command interop is a go-micro program for Switchboard's tests: it registers, reads and selects through go-micro's own
// Consul registry.
//
//	interop register ADDRESS    registers the service "interop-go" until standard input ends
//	interop get ADDRESS NAME    prints what go-micro reads of NAME, as JSON
//	interop select ADDRESS NAME prints the address that go-micro's selector picks
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/go-micro/plugins/v4/registry/consul"
	"go-micro.dev/v4/registry"
	"go-micro.dev/v4/selector"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: interop register|get|select ADDRESS [NAME]")
	}
	reg := consul.NewRegistry(registry.Addrs(args[1]))
	switch {
	case args[0] == "register":
		return register(reg)
	case args[0] == "get" && len(args) == 3:
		services, err := reg.GetService(args[2])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(services)
	case args[0] == "select" && len(args) == 3:
		sel := selector.NewSelector(selector.Registry(reg))
		defer sel.Close()
		next, err := sel.Select(args[2])
		if err != nil {
			return err
		}
		node, err := next()
		if err != nil {
			return err
		}
		fmt.Println(node.Address)
		return nil
	}
	return fmt.Errorf("unknown arguments %q", args)
}

func register(reg registry.Registry) error {
	service := &registry.Service{
		Name:    "interop-go",
		Version: "1.2.3-go",
		Nodes: []*registry.Node{{
			Id:       "interop-go-1",
			Address:  "10.1.2.3:9090",
			Metadata: map[string]string{"protocol": "mucp", "zone": "eu-1"},
		}},
		Endpoints: []*registry.Endpoint{{
			Name: "Greeter.Hello",
			Request: &registry.Value{Name: "Request", Type: "Request", Values: []*registry.Value{
				{Name: "name", Type: "string"},
			}},
			Response: &registry.Value{Name: "Response", Type: "Response"},
			Metadata: map[string]string{"stream": "false"},
		}},
	}
	if err := reg.Register(service, registry.RegisterTTL(90*time.Second)); err != nil {
		return err
	}
	fmt.Println("registered")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	if err := reg.Deregister(service); err != nil {
		return err
	}
	fmt.Println("deregistered")
	return nil
}
