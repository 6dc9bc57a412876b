// What the benchmarks in Go have in common: bench/bench.h in Go.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

func report(metric string, value float64, unit string) {
	fmt.Printf("%s=%.6g %s\n", metric, value, unit)
}

func reportPeak() {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	report("peak", float64(usage.Maxrss)/1024, "MiB")
}

func ns(d time.Duration, n int) float64 { return float64(d.Nanoseconds()) / float64(n) }

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func argument(i int) int {
	if len(os.Args) <= i {
		return 1
	}
	n, _ := strconv.Atoi(os.Args[i])
	return n
}

// Runs the workload that the command line names, or tells which Go this is; false for the latter.
func runWorkload(workloads map[string]func(n, m int)) bool {
	if len(os.Args) < 2 || os.Args[1] == "version" {
		fmt.Println(runtime.Version()[2:])
		return false
	}
	run := workloads[os.Args[1]]
	if run == nil {
		fmt.Fprintln(os.Stderr, "no such workload:", os.Args[1])
		os.Exit(2)
	}
	run(argument(2), argument(3))
	return true
}
