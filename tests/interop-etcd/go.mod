module switchboard.example/interop-etcd

go 1.25

require (
	github.com/go-micro/plugins/v4/registry/etcd v1.2.0
	go-micro.dev/v4 v4.11.0
	go.etcd.io/etcd/client/v3 v3.6.16
)
