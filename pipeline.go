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
	wholes chan struct{} // round trips for batches under way

	mu       sync.Mutex
	running  int        // round trips under way; guarded by mu
	gathered int        // of those, that carry more than one command; guarded by mu
	queue    []*request // guarded by mu
}

const (
	pipelineWidth    = 4  // round trips at a time
	pipelineWholes   = 2  // besides, for batches
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
	whole int // requests of a batch that it consists of; 0: it is one by itself
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
func (p *pipeline) company(ctx context.Context, reqs []any) {
	whole := &request{ctx: ctx, whole: len(reqs)}
	for _, r := range reqs {
		whole.sends = append(whole.sends, r.(*request).sends...)
	}
	p.sendWhole(whole)
	cmds := whole.cmds
	for _, r := range reqs {
		req := r.(*request)
		if req.err = whole.err; req.err == nil {
			req.cmds, cmds = cmds[:len(req.sends)], cmds[len(req.sends):]
		}
	}
}

// sendWhole sends the commands of a batch, beside those that send does, for which it would take too long to wait for it.
func (p *pipeline) sendWhole(req *request) {
	if p.r.oneServer {
		p.wholes <- struct{}{}
		defer func() { <-p.wholes }()
	}
	p.trip(req)
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
	p.trip(req)
	if next := p.next(false); next != nil {
		counted := p.r.begin() // if not, what is left is refused at once
		go func() {
			if counted {
				defer p.r.work.Done()
			}
			for ; next != nil; next = p.next(true) {
				p.trip(next...)
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

// trip sends requests together and tells those who wait for them.
func (p *pipeline) trip(batch ...*request) {
	others := -1
	for _, req := range batch {
		others += max(req.whole, 1)
	}
	budget := min(p.r.timeout+time.Duration(others)*p.r.timeout/pipelineShare, patient*p.r.timeout)
	cmds, err := call(batch[0].ctx, p.r, budget, func(ctx context.Context) ([]redis.Cmder, error) {
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
