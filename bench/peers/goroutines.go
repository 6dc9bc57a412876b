// The workloads of bench/goroutines.c in Go, with the same names, sizes and metrics.
//
//	bench_go_goroutines WORKLOAD [N [M]]
package main

import (
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

var all sync.WaitGroup

func spawn(n, _ int) {
	start := time.Now()
	for i := 0; i < n; i++ {
		all.Add(1)
		go all.Done()
	}
	all.Wait()
	report("each", ns(time.Since(start), n), "ns")
	reportPeak()
}

func pingpong(n, procs int) {
	runtime.GOMAXPROCS(procs)
	there, back := make(chan int), make(chan int)
	go func() {
		for value := range there {
			back <- value
		}
	}()
	start := time.Now()
	for i := 0; i < n; i++ {
		there <- i
		<-back
	}
	report("round trip", ns(time.Since(start), n), "ns")
}

func giveWay(times int) {
	for ; times > 0; times-- {
		runtime.Gosched()
	}
	all.Done()
}

func yield(n, _ int) {
	runtime.GOMAXPROCS(1)
	start := time.Now()
	for i := 0; i < 2; i++ {
		all.Add(1)
		go giveWay(n)
	}
	all.Wait()
	report("each", ns(time.Since(start), 2*n), "ns")
}

func produce(count int, out chan<- int) {
	for i := 0; i < count; i++ {
		out <- i
	}
	close(out)
}

func buffered(n, capacity int) {
	values := make(chan int, capacity)
	start := time.Now()
	go produce(n, values)
	for range values {
	}
	report("each", ns(time.Since(start), n), "ns")
}

var (
	lock    sync.Mutex
	counter int
)

func countUp(times int) {
	for ; times > 0; times-- {
		lock.Lock()
		counter++
		lock.Unlock()
	}
	all.Done()
}

func mutex(n, goroutines int) {
	start := time.Now()
	for i := 0; i < goroutines; i++ {
		all.Add(1)
		go countUp(n)
	}
	all.Wait()
	report("each", ns(time.Since(start), counter), "ns")
}

func generate(out chan<- int) {
	for i := 2; ; i++ {
		out <- i
	}
}

func sift(in <-chan int, out chan<- int, prime int) {
	for i := range in {
		if i%prime != 0 {
			out <- i
		}
	}
}

func sieve(n, _ int) {
	start := time.Now()
	in := make(chan int)
	go generate(in)
	for ; n > 0; n-- {
		prime := <-in
		out := make(chan int)
		go sift(in, out, prime)
		in = out
	}
	report("time", time.Since(start).Seconds(), "s")
}

func memory() (sum float64) {
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		word := strings.Fields(line)
		if len(word) > 1 && (word[0] == "VmRSS:" || word[0] == "VmPTE:") {
			kib, _ := strconv.Atoi(word[1])
			sum += float64(kib)
		}
	}
	return sum
}

// What Go says it has from the system: address space, committed or not.
func sys() float64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.Sys) / 1024
}

func million(n, _ int) {
	closed := make(chan struct{})
	memoryBefore, sysBefore, start := memory(), sys(), time.Now()
	for i := 0; i < n; i++ {
		all.Add(1)
		go func() {
			all.Done()
			<-closed
			all.Done()
		}()
	}
	all.Wait()
	report("park", ns(time.Since(start), n), "ns")
	report("memory", (memory()-memoryBefore)/float64(n), "KiB")
	report("Sys", (sys()-sysBefore)/float64(n), "KiB")
	all.Add(n)
	start = time.Now()
	close(closed)
	all.Wait()
	report("release", ns(time.Since(start), n), "ns")
}

const message = 64

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func sendBack(c net.Conn) {
	buffer := make([]byte, 4096)
	for {
		n, err := c.Read(buffer)
		if err != nil {
			c.Close()
			return
		}
		_, err = c.Write(buffer[:n])
		check(err)
	}
}

func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go sendBack(c)
	}
}

func askInTurn(c net.Conn, messages int) {
	buffer := make([]byte, 4096)
	for i := 0; i < messages; i++ {
		_, err := c.Write(buffer[:message])
		check(err)
		_, err = io.ReadAtLeast(c, buffer, message)
		check(err)
	}
	c.Close()
	all.Done()
}

func echo(n, connections int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go serve(l)
	clients := make([]net.Conn, connections)
	for i := range clients {
		clients[i], err = net.Dial("tcp", l.Addr().String())
		check(err)
	}
	messages := n / connections
	start := time.Now()
	for _, c := range clients {
		all.Add(1)
		go askInTurn(c, messages)
	}
	all.Wait()
	report("round trip", ns(time.Since(start), messages*connections), "ns")
}

func main() {
	runWorkload(map[string]func(n, m int){
		"spawn": spawn, "pingpong": pingpong, "yield": yield, "buffered": buffered,
		"mutex": mutex, "sieve": sieve, "million": million, "echo": echo,
	})
}
