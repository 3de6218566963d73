// A load that keeps so many checks open and sends the next one when one is answered, none of
// them twice in a row: each call takes the next of the messages in the file, in turn.
//
// The file holds messages one behind the other, each behind its length in four bytes, the most
// significant first. It prints one JSON object: answers and failures after the warm-up, and all
// answers; and the waits in milliseconds.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

const method = "/envoy.service.auth.v3.Authorization/Check"

// plain hands bytes through: what a message says is not this program's business.
type plain struct{}

func (plain) Name() string { return "proto" }

func (plain) Marshal(value any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*value.(*[]byte))}, nil
}

func (plain) Unmarshal(data mem.BufferSlice, value any) error {
	*value.(*[]byte) = data.Materialize()
	return nil
}

type counts struct {
	Answered int     `json:"answered"`
	Failed   int64   `json:"failed"`
	All      int64   `json:"all"`
	Median   float64 `json:"median_milliseconds"`
	P99      float64 `json:"p99_milliseconds"`
}

func main() {
	address := flag.String("address", "", "address of the gRPC service")
	file := flag.String("messages", "", "file of the serialized CheckRequests")
	seconds := flag.Float64("seconds", 2, "for how long, behind the warm-up")
	warmUp := flag.Float64("warm-up", 0.3, "seconds whose answers do not count")
	connections := flag.Int("connections", 4, "connections")
	streams := flag.Int("streams", 10, "checks open on each connection")
	flag.Parse()
	messages := read(*file)
	counted := time.Now().Add(time.Duration(*warmUp * float64(time.Second)))
	end := counted.Add(time.Duration(*seconds * float64(time.Second)))
	var next, failed, all atomic.Int64
	var group sync.WaitGroup
	waits := make([][]float64, *connections**streams)
	for connection := range *connections {
		client, err := grpc.NewClient(*address,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(plain{})))
		if err != nil {
			log.Fatal(err)
		}
		for stream := range *streams {
			group.Add(1)
			go func() {
				defer group.Done()
				mine := &waits[connection**streams+stream]
				for {
					sent := time.Now()
					if sent.After(end) {
						return
					}
					message := &messages[int(next.Add(1))%len(messages)]
					var answer []byte
					err := client.Invoke(context.Background(), method, message, &answer)
					now := time.Now()
					all.Add(1)
					if err != nil {
						failed.Add(1)
					} else if now.After(counted) && now.Before(end) {
						*mine = append(*mine, float64(now.Sub(sent).Microseconds())/1000)
					}
				}
			}()
		}
	}
	group.Wait()
	report(waits, failed.Load(), all.Load())
}

func read(path string) [][]byte {
	data, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	var messages [][]byte
	for len(data) > 0 {
		end := 4 + int(binary.BigEndian.Uint32(data))
		messages = append(messages, data[4:end])
		data = data[end:]
	}
	return messages
}

func report(waits [][]float64, failed int64, all int64) {
	var every []float64
	for _, mine := range waits {
		every = append(every, mine...)
	}
	sort.Float64s(every)
	found := counts{Answered: len(every), Failed: failed, All: all}
	if len(every) > 0 {
		found.Median = every[len(every)/2]
		found.P99 = every[int(float64(len(every))*0.99)]
	}
	text, _ := json.Marshal(found)
	fmt.Println(string(text))
}
