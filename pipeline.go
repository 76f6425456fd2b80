package cache

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// pipeline sends commands one by one while few are under way, and gathers the others for the next round trip; while that
// goes on, who comes waits for the one after it. It adds no latency when idle. Under a burst it saves most of the system calls: 8 processes on 2 cores that asked for 200 cold
// keys each could not get an answer within the budget of a command without it. A pipeline is for one server: in a
// cluster a slow node would hold up the answers of the others.
type pipeline struct {
	r      *Redis
	wholes chan struct{} // batches that are sending

	mu       sync.Mutex
	most     int           // keys of a batch in one round trip; guarded by mu
	fastest  time.Duration // round trip of a batch; guarded by mu
	running  int           // round trips under way; guarded by mu
	gathered int           // of those, that carry more than one command; guarded by mu
	queue    []*request    // guarded by mu
	idle     []*worker     // guarded by mu
	closed   bool          // guarded by mu
}

const (
	pipelineWidth  = 4  // round trips at a time
	pipelineWholes = 2  // besides, for batches
	pipelineFew    = 32 // keys of a batch in one, to begin with
	// Of those, that carry more than one command. With three, a process loads 1.4 times as many cold keys a second, and of eight
	// that want the same 3,000 at once the answers come too late: 9,115 loads were seen, and never more than 3,128 with one.
	pipelineGathered = 1
	pipelineLength   = 32 // commands in one
	pipelineShare    = 32 // a command in a round trip adds this part of the budget of one
)

// commands is what a request may use: a client, or a pipeline that it fills.
type commands interface {
	redis.Scripter
	GetRange(ctx context.Context, key string, start, end int64) *redis.StringCmd
	HMGet(ctx context.Context, key string, fields ...string) *redis.SliceCmd
}

// sender sends one command.
type sender interface {
	send(ctx context.Context, c commands) redis.Cmder
}

// sending is a sender.
type sending func(context.Context, commands) redis.Cmder

func (s sending) send(ctx context.Context, c commands) redis.Cmder { return s(ctx, c) }

// request is one command on its way, or several that belong together.
type request struct {
	ctx   context.Context // for its values
	sends []sender
	cmds  []redis.Cmder
	err   error         // no answer
	done  chan struct{} // closed when there is one, or none; nil but for the last of a batch
}

// do sends a command and returns it with its answer or error; or an error if it got no answer within the budget, which begins
// when the command is sent and is larger in company. It blocks for the round trip under way and its own.
func (p *pipeline) do(ctx context.Context, send sender) (redis.Cmder, error) {
	cmds, err := p.together(ctx, send)
	if err != nil {
		return nil, err
	}
	return cmds[0], nil
}

// together is do for commands that go in the same round trip; in a cluster to several nodes, at the same time.
func (p *pipeline) together(ctx context.Context, sends ...sender) ([]redis.Cmder, error) {
	req := &request{ctx: ctx, sends: sends}
	if m, ok := ctx.(*member); ok {
		m.meet(req)
	} else {
		req.done = make(chan struct{})
		p.start(req)
		<-req.done
	}
	return req.cmds, req.err
}

// company sends what the members of a batch have met for.
func (p *pipeline) company(met []any) {
	reqs := make([]*request, len(met))
	for i, r := range met {
		reqs[i] = r.(*request)
	}
	p.sendAll(reqs)
}

// sendAll sends the requests of a batch, beside those that send does, for which it would take too long to wait for it. How
// many go in one round trip is found out as TCP does it (slow start, RFC 5681): twice as many while the server is quick,
// half of them when it is not. So a server that is short of time is not given more than it answers in time (measured in
// docs/batches.md). Once there is no answer the rest is not sent.
func (p *pipeline) sendAll(reqs []*request) {
	if p.r.oneServer {
		p.wholes <- struct{}{}
		defer func() { <-p.wholes }()
	}
	for len(reqs) > 0 {
		p.mu.Lock()
		n := min(max(p.most, pipelineFew), len(reqs))
		p.mu.Unlock()
		part := reqs[:n]
		reqs = reqs[n:]
		began := time.Now()
		err := p.whole(part)
		took, budget := time.Since(began), p.budget(n)
		p.mu.Lock()
		if p.fastest == 0 || took < p.fastest {
			p.fastest = took
		}
		switch {
		case err != nil:
			p.most = pipelineFew
		case took > budget/2:
			p.most = n / 2
		case took-p.fastest < budget/16:
			p.most = max(p.most, 2*n)
		}
		p.mu.Unlock()
		if err != nil {
			for _, req := range reqs {
				req.err = err
			}
			return
		}
	}
}

// whole sends requests in a round trip of their own and waits for its end. It returns an error if the server did not answer
// all of them.
func (p *pipeline) whole(reqs []*request) error {
	done := make(chan struct{})
	reqs[len(reqs)-1].done = done
	p.mu.Lock()
	w := p.hireLocked()
	p.mu.Unlock()
	w.alone = true
	w.does(reqs)
	<-done
	for _, req := range reqs {
		if req.err != nil {
			return req.err
		}
		for _, cmd := range req.cmds {
			if err := silence(cmd.Err()); err != nil {
				return err
			}
		}
	}
	return nil
}

// start sends a request, now or soon.
func (p *pipeline) start(req *request) {
	p.mu.Lock()
	if p.r.oneServer && (p.running >= pipelineWidth || p.gathered > 0) {
		p.queue = append(p.queue, req)
		p.mu.Unlock()
		return
	}
	p.running++
	w := p.hireLocked()
	p.mu.Unlock()
	w.one[0] = req
	w.does(w.one[:])
}

// budget returns that of a round trip with n requests.
func (p *pipeline) budget(n int) time.Duration {
	return min(p.r.timeout+time.Duration(n-1)*p.r.timeout/pipelineShare, patient*p.r.timeout)
}

// unsent returns the error of a pipeline that none of its commands knows of: a hook of the user's client has failed, and
// their results mean nothing.
func unsent(cmds []redis.Cmder, err error) error {
	for _, cmd := range cmds {
		if cmd.Err() != nil {
			return nil
		}
	}
	return err
}
