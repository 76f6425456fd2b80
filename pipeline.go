package cache

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// pipeline sends commands one by one while few are under way, and gathers the others for the next round trip. It adds
// no latency when idle. Under a burst it saves most of the system calls: 8 processes on 2 cores that asked for 200 cold
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
}

const (
	pipelineWidth    = 4  // round trips at a time
	pipelineWholes   = 2  // besides, for batches
	pipelineFew      = 32 // keys of a batch in one, to begin with
	pipelineGathered = 1  // of those, that carry more than one command: with more, bursts queue up at the server
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
type sender func(context.Context, commands) redis.Cmder

// request is one command on its way, or several that belong together.
type request struct {
	ctx   context.Context // for its values
	sends []sender
	cmds  []redis.Cmder
	err   error // no answer
	done  chan struct{}
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
		p.send(req)
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
		err := p.trip(part...)
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

// send blocks until the request has been answered.
func (p *pipeline) send(req *request) {
	p.mu.Lock()
	if p.r.oneServer && p.running >= pipelineWidth {
		req.done = make(chan struct{})
		p.queue = append(p.queue, req)
		p.mu.Unlock()
		<-req.done
		return
	}
	p.running++
	p.mu.Unlock()
	_ = p.trip(req) // each request has its error
	if next := p.next(false); next != nil {
		counted := p.r.begin() // if not, what is left is refused at once
		go func() {
			if counted {
				defer p.r.work.Done()
			}
			for ; next != nil; next = p.next(true) {
				_ = p.trip(next...)
			}
		}()
	}
}

// next takes what has gathered, after a round trip that may have been one of several commands; without anything to take
// it ends there.
func (p *pipeline) next(several bool) []*request {
	p.mu.Lock()
	defer p.mu.Unlock()
	if several {
		p.gathered--
	}
	n := min(len(p.queue), pipelineLength)
	if n == 0 || p.gathered >= pipelineGathered {
		p.running--
		return nil
	}
	p.gathered++
	batch := p.queue[:n:n]
	if p.queue = p.queue[n:]; len(p.queue) == 0 {
		p.queue = nil
	}
	return batch
}

// budget returns that of a round trip with n requests.
func (p *pipeline) budget(n int) time.Duration {
	return min(p.r.timeout+time.Duration(n-1)*p.r.timeout/pipelineShare, patient*p.r.timeout)
}

// trip sends requests together and tells those who wait for them. It returns an error if the server did not answer.
func (p *pipeline) trip(batch ...*request) error {
	cmds, err := call(batch[0].ctx, p.r, p.budget(len(batch)), func(ctx context.Context) ([]redis.Cmder, error) {
		if len(batch) == 1 && len(batch[0].sends) == 1 {
			cmd := batch[0].sends[0](ctx, p.r.client)
			return []redis.Cmder{cmd}, silence(cmd.Err())
		}
		cmds, err := p.r.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for _, req := range batch {
				for _, send := range req.sends {
					send(ctx, pipe)
				}
			}
			return nil
		})
		if err := unsent(cmds, err); err != nil {
			return nil, err
		}
		return cmds, silence(err)
	})
	for _, req := range batch {
		switch n := len(req.sends); {
		case n <= len(cmds):
			req.cmds, cmds = cmds[:n], cmds[n:] // each with its own error, if there was no answer to it
		case err != nil:
			req.err = err
		default:
			req.err = errReply
		}
		if req.done != nil {
			close(req.done)
		}
	}
	return err
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
