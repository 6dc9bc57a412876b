// The workloads of bench/workloads.c in Go, with the same names, sizes and metrics.
//
//	bench_go WORKLOAD [N [M]]
package main

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

type node struct{ left, right *node }

type cell struct {
	next  *cell
	value [3]uint64
}

type object struct {
	next  *object
	value [6]uint64
}

func build(depth int) *node {
	if depth == 0 {
		return &node{}
	}
	return &node{build(depth - 1), build(depth - 1)}
}

func (n *node) count() int {
	if n.left == nil {
		return 1
	}
	return 1 + n.left.count() + n.right.count()
}

func (n *node) check(depth int) {
	if n.count() != 2<<depth-1 {
		panic("a tree has lost nodes")
	}
}

func trees(depth, _ int) {
	start := time.Now()
	large := build(depth)
	for d := 4; d <= depth; d += 4 {
		for i := 1 << (depth - d + 4); i > 0; i-- {
			build(d).check(d)
		}
	}
	large.check(depth)
	report("time", time.Since(start).Seconds(), "s")
}

// Package variables, so that what they hold is on the heap.
var (
	lastCell *cell
	objects  []*object
	live     []*cell
	words    []*byte
)

func allocate(n int) {
	for i := 0; i < n; i++ {
		c := new(cell)
		if i%1024 == 0 {
			lastCell = c
		}
	}
}

func alloc(n, threads int) {
	var all sync.WaitGroup
	all.Add(threads)
	start := time.Now()
	for i := 0; i < threads; i++ {
		go func() {
			allocate(n)
			all.Done()
		}()
	}
	all.Wait()
	report("each", ns(time.Since(start), n), "ns")
}

var randomState uint64 = 88172645463325252

func randomBelow(n int) int {
	randomState ^= randomState << 13
	randomState ^= randomState >> 7
	randomState ^= randomState << 17
	return int(randomState % uint64(n))
}

func newObjects(n int) {
	objects = make([]*object, n)
	for i := range objects {
		objects[i] = new(object)
	}
}

func timedCollection() {
	start := time.Now()
	runtime.GC()
	report("collect", ms(time.Since(start)), "ms")
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	report("pause", float64(s.PauseNs[(s.NumGC+255)%256])/1e6, "ms")
}

func mark(n, _ int) {
	newObjects(n)
	for _, o := range objects {
		o.next = objects[randomBelow(n)]
	}
	for i := n - 1; i > 0; i-- {
		j := randomBelow(i + 1)
		objects[i], objects[j] = objects[j], objects[i]
	}
	runtime.GC()
	for i := 0; i < 3; i++ {
		timedCollection()
	}
}

func size(n, _ int) {
	count := (2 << 30) / n
	if count > 20000000 {
		count = 20000000
	}
	start := time.Now()
	for i := 0; i < count; i++ {
		p := make([]*byte, n/8)
		if i%64 == 0 {
			words = p
		}
	}
	report("each", ns(time.Since(start), count), "ns")
}

var finalized int64

func countFinalized(*cell) { atomic.AddInt64(&finalized, 1) }

func fin(n, _ int) {
	for round := 0; round < 3; round++ {
		atomic.StoreInt64(&finalized, 0)
		start := time.Now()
		for i := 0; i < n; i++ {
			runtime.SetFinalizer(new(cell), countFinalized)
		}
		set := time.Since(start)
		runtime.GC()
		for atomic.LoadInt64(&finalized) < int64(n-100) {
			time.Sleep(100 * time.Microsecond)
		}
		report("set", ns(set, n), "ns")
		report("in all", ns(time.Since(start), n), "ns")
	}
}

func finlive(n, _ int) {
	live = make([]*cell, n)
	for i := range live {
		live[i] = new(cell)
		runtime.SetFinalizer(live[i], countFinalized)
	}
	runtime.GC()
	for i := 0; i < 3; i++ {
		timedCollection()
	}
	start := time.Now()
	for _, c := range live {
		runtime.SetFinalizer(c, nil)
	}
	report("clear", ns(time.Since(start), n), "ns")
}

func replaceSome(n int) {
	for i := 0; i < 64; i++ {
		o := new(object)
		o.next = objects[randomBelow(n)]
		objects[randomBelow(n)] = o
		o.next = nil
	}
}

func pause(n, seconds int) {
	newObjects(n)
	start, replaced := time.Now(), 0
	last, longest := start, time.Duration(0)
	for last.Sub(start) < time.Duration(seconds)*time.Second {
		replaceSome(n)
		replaced += 64
		t := time.Now()
		if t.Sub(last) > longest {
			longest = t.Sub(last)
		}
		last = t
	}
	report("longest", ms(longest), "ms")
	report("rate", float64(replaced)/1e6/last.Sub(start).Seconds(), "M/s")
}

func main() {
	if runWorkload(map[string]func(n, m int){
		"trees": trees, "alloc": alloc, "mark": mark, "size": size, "fin": fin, "finlive": finlive, "pause": pause,
	}) {
		reportPeak()
	}
}
