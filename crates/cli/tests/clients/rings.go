// A client made of cilium/ebpf: loads rings.bpf.o, runs its program, reads a hash, the globals and the ring buffer.
package main

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func main() {
	spec, err := ebpf.LoadCollectionSpec(os.Args[1])
	check(err)
	check(spec.RewriteConstants(map[string]interface{}{"step": uint64(3)}))
	coll, err := ebpf.NewCollection(spec)
	check(err)
	defer coll.Close()
	ring, err := ringbuf.NewReader(coll.Maps["ring"])
	check(err)
	for i := 0; i < 5; i++ {
		result, _, err := coll.Programs["count"].Test(make([]byte, 64))
		check(err)
		if i == 0 {
			fmt.Println("count", result)
		}
	}
	sum := uint64(0)
	for i := 0; i < 5; i++ {
		record, err := ring.Read()
		check(err)
		sum += binary.LittleEndian.Uint64(record.RawSample)
	}
	fmt.Println("ring of sum", sum)
	var seen uint64
	check(coll.Maps["counts"].Lookup(uint32(7), &seen))
	fmt.Println("hash", seen)
	var key uint32
	entries := coll.Maps["counts"].Iterate()
	for entries.Next(&key, &seen) {
		fmt.Println("entry", key, seen)
	}
	check(entries.Err())
	info, err := coll.Programs["count"].Info()
	check(err)
	fmt.Println("program", info.Name, info.Type)
	check(ring.Close())
}
