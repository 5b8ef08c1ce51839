// A service announced by hashicorp/mdns, which says no goodbye: `peer INTERFACE NAME TYPE PORT ADDRESS`. It reports its
// start as a line of JSON and runs until it is ended.
package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"strconv"

	"github.com/hashicorp/mdns"
)

func main() {
	if len(os.Args) != 6 {
		log.Fatal("usage: peer INTERFACE NAME TYPE PORT ADDRESS")
	}
	link, err := net.InterfaceByName(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	port, err := strconv.Atoi(os.Args[4])
	if err != nil {
		log.Fatal(err)
	}
	addresses := []net.IP{net.ParseIP(os.Args[5])}
	zone, err := mdns.NewMDNSService(os.Args[2], os.Args[3], "local.", "peer.local.", port, addresses, []string{"by=hashicorp"})
	if err != nil {
		log.Fatal(err)
	}
	server, err := mdns.NewServer(&mdns.Config{Zone: zone, Iface: link})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Shutdown()
	fmt.Println(`{"event":"open"}`)
	select {}
}
