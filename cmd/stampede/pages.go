package main

import (
	"context"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// pages shows what the processes of a fleet know of the cache: each has a page of its own (package cachehttp), and this one leads there.
type pages struct {
	listener net.Listener
	server   http.Server

	once   sync.Once
	opened chan struct{} // closed when a process's page is asked for

	mu    sync.Mutex
	fleet []*process // guarded by mu
}

var index = template.Must(template.New("index").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>stampede</title><style>body { font: 15px/1.6 system-ui, sans-serif; margin: 1.25rem; }</style>
<h1>The processes of the fleet</h1><p>Each shows what it knows. The calls begin when the first page is opened.</p>
<ul>{{range .}}<li><a href="/{{.PID}}/">process {{.PID}}</a>{{if .Killed}} (killed while it held the lease){{end}}</li>{{end}}</ul>
`))

func newPages(addr string) (*pages, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	p := &pages{listener: l, opened: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.index)
	mux.HandleFunc("GET /{pid}/", p.forward)
	p.server = http.Server{Handler: mux, ReadHeaderTimeout: patience}
	go func() { _ = p.server.Serve(l) }()
	return p, nil
}

func (p *pages) url() string { return "http://" + p.listener.Addr().String() + "/" }

func (p *pages) close() { _ = p.server.Close() }

// of makes the pages those of these processes.
func (p *pages) of(fleet []*process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fleet = fleet
}

type listed struct {
	PID    string
	Killed bool
	page   string
}

func (p *pages) list() (all []listed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.fleet {
		all = append(all, listed{fmt.Sprint(one.cmd.Process.Pid), one.killed.Load(), one.page})
	}
	return all
}

func (p *pages) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = index.Execute(w, p.list())
}

func (p *pages) forward(w http.ResponseWriter, r *http.Request) {
	for _, one := range p.list() {
		if one.PID == r.PathValue("pid") {
			p.once.Do(func() { close(p.opened) })
			proxy := httputil.ReverseProxy{
				Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: one.page}) },
				ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
					http.Error(w, "the process does not answer", http.StatusBadGateway)
				},
			}
			proxy.ServeHTTP(w, r)
			return
		}
	}
	http.NotFound(w, r)
}

// await returns when a page was opened.
func (p *pages) await(ctx context.Context) error {
	select {
	case <-p.opened:
		pause(ctx, time.Second) // so that it shows how things were
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
