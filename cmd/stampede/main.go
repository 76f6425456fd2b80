// Command stampede shows what a cold key costs a fleet. It starts real processes, releases all of their callers at once
// at a slow origin behind Redis, and shows side by side: no protection, singleflight in each process, and this package.
//
//	go run ./cmd/stampede
//
// It needs nothing but Go: without -redis it brings a Redis of its own (miniredis, on loopback).
//
// Two commands are for the caches of a service, for when something is to be looked at or to be gone:
//
//	stampede inspect -redis 127.0.0.1:6379 user 42
//	stampede purge -redis 127.0.0.1:6379 user 42 43
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	Redis     string
	Processes int
	Callers   int
	Keys      int
	Load      time.Duration
	MaxLoads  int
	Kill      bool
	JSON      bool
	HTML      string
	SVG       string
	HTTP      string

	timeout time.Duration // RedisOptions.Timeout, for tests
	lease   time.Duration // Options.Lease, for tests
}

// calls is how many there are in a mode.
func (c *config) calls() int { return c.Processes * max(c.Callers, c.Keys) }

// scene is what is played, in a line.
func (c *config) scene() string {
	return fmt.Sprintf("%d processes x %d callers, %d cold key(s), a load takes %v", c.Processes, max(c.Callers, c.Keys), c.Keys, c.Load)
}

// usageError is of what was asked for, not of what became of it.
type usageError struct{ error }

func main() {
	if spec, ok := os.LookupEnv(workerVariable); ok {
		if err := work(spec); err != nil {
			fmt.Fprintln(os.Stderr, "stampede worker:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "stampede: interrupted")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "stampede:", err)
		if errors.As(err, new(usageError)) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// command does what the arguments say.
func command(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "inspect":
			return inspect(ctx, args[1:], os.Stdout)
		case "purge":
			return purge(ctx, args[1:], os.Stdout)
		}
	}
	return demonstrate(ctx, args)
}

// demonstrate is the command without a name.
func demonstrate(ctx context.Context, args []string) error {
	cfg, err := parse(args, os.Stdout)
	if err != nil {
		return err
	}
	rep, err := run(ctx, cfg, os.Stderr)
	if err != nil {
		return err
	}
	for path, draw := range map[string]func(io.Writer) error{
		cfg.HTML: func(w io.Writer) error { return rep.html(w, cfg.conditions(rep.server)) },
		cfg.SVG:  func(w io.Writer) error { return rep.picture(w, cfg.scene()) },
	} {
		if path == "" {
			continue
		}
		if err := write(path, draw); err != nil {
			return err
		}
	}
	if cfg.JSON {
		return json.NewEncoder(os.Stdout).Encode(rep)
	}
	return rep.table(os.Stdout, cfg)
}

// write makes a file of what is drawn, or none if that fails.
func write(path string, draw func(io.Writer) error) error {
	var b bytes.Buffer
	if err := draw(&b); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func parse(args []string, usage io.Writer) (config, error) {
	var c config
	fs := flag.NewFlagSet("stampede", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // main prints the error, once
	fs.StringVar(&c.Redis, "redis", "", "`address` of a Redis to use, host:port (default: an embedded one)")
	fs.IntVar(&c.Processes, "processes", 8, "number of processes, 1 to 64")
	fs.IntVar(&c.Callers, "callers", 200, "callers in each process, 1 to 10000")
	fs.IntVar(&c.Keys, "keys", 1, "cold keys, 1 to 10000; caller i asks for key i modulo keys")
	fs.DurationVar(&c.Load, "load", 300*time.Millisecond, "what a load takes at the origin, 1ms to 20s")
	fs.IntVar(&c.MaxLoads, "max-loads", 0, "loads at a time that this package allows all processes together (default: no bound)")
	fs.BoolVar(&c.Kill, "kill", false, "kill the process that holds the lease in mid-load, and show the recovery")
	fs.BoolVar(&c.JSON, "json", false, "print one JSON object instead of the table")
	fs.StringVar(&c.HTML, "html", "", "write a report with charts to this `file`, besides")
	fs.StringVar(&c.SVG, "svg", "", "write the charts as a picture to this `file`, besides")
	fs.StringVar(&c.HTTP, "http", "", "serve the debug pages of all processes at this `address`, host:port, run this package only, "+
		"begin when a page is opened, and stay until interrupted; a load then takes 10s unless -load says otherwise")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(usage, "usage: stampede [flags]\n       stampede inspect -h\n       stampede purge -h")
			fs.SetOutput(usage)
			fs.PrintDefaults()
			return c, err
		}
		return c, usageError{err}
	}
	var errs []error
	if c.HTTP != "" {
		given := false
		fs.Visit(func(f *flag.Flag) { given = given || f.Name == "load" })
		if !given {
			c.Load = 10 * time.Second
		}
		if c.HTML != "" || c.SVG != "" || c.JSON {
			errs = append(errs, errors.New("-http goes with none of -html, -svg and -json"))
		}
	}
	if fs.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", fs.Arg(0)))
	}
	between := func(name string, n, least, most int) {
		if n < least || n > most {
			errs = append(errs, fmt.Errorf("-%s is %d: want %d to %d", name, n, least, most))
		}
	}
	between("processes", c.Processes, 1, 64)
	between("callers", c.Callers, 1, 10000)
	between("keys", c.Keys, 1, 10000)
	between("max-loads", c.MaxLoads, 0, 10000)
	if c.Load < time.Millisecond || c.Load > 20*time.Second {
		errs = append(errs, fmt.Errorf("-load is %v: want 1ms to 20s", c.Load))
	}
	if c.Kill && c.Processes < 2 {
		errs = append(errs, errors.New("-kill needs at least 2 processes"))
	}
	if len(errs) > 0 {
		return c, usageError{errors.Join(errs...)}
	}
	return c, nil
}
