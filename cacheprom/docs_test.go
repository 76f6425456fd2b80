package cacheprom_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"gopkg.in/yaml.v3"

	"github.com/bellwether-go/cache"
	"github.com/bellwether-go/cache/cacheprom"
)

// all are the metrics that there are, with their labels.
func all(t *testing.T) map[string][]string {
	t.Helper()
	metrics := cacheprom.New(cacheprom.Options{})
	c, err := cache.New[int]("user", cache.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	metrics.Add(c)
	o := metrics.Observer()
	_, end := o.Load(context.Background(), cache.LoadEvent{})
	end(cache.LoadEvent{Cache: "user", Outcome: "value", Took: time.Second})
	o.Lease(context.Background(), cache.LeaseEvent{Cache: "user", What: "woken", Took: time.Second})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string][]string)
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		names[f.GetName()] = labels
		if f.GetMetric()[0].GetHistogram() != nil {
			names[f.GetName()+"_bucket"] = append(labels, "le")
			names[f.GetName()+"_count"], names[f.GetName()+"_sum"] = labels, labels
		}
	}
	if n, err := testutil.GatherAndCount(registry); err != nil || n < len(families) {
		t.Error(n, err)
	}
	return names
}

var (
	name  = regexp.MustCompile(`\bcache_[a-z_]+`)
	label = regexp.MustCompile(`(?:by|without) \(([^)]*)\)|(\w+)=~?"`)
)

// checkExpr looks whether what an expression names is there.
func checkExpr(t *testing.T, where, expr string, metrics map[string][]string, used map[string]bool) {
	t.Helper()
	var labels []string
	for _, n := range name.FindAllString(expr, -1) {
		if metrics[n] == nil {
			t.Errorf("%s: there is no %s", where, n)
		}
		labels = append(labels, metrics[n]...)
		used[n] = true
	}
	for _, m := range label.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(m[1]+m[2], ",") {
			if l = strings.TrimSpace(l); !strings.Contains(" "+strings.Join(labels, " ")+" ", " "+l+" ") {
				t.Errorf("%s: no metric of it has the label %s: %s", where, l, expr)
			}
		}
	}
}

// The dashboard and the alerts name metrics and labels that there are, and the documentation all of them.
func TestDocs(t *testing.T) {
	metrics, used := all(t), make(map[string]bool)
	raw, err := os.ReadFile("../docs/observing/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			checkExpr(t, p.Title, target.Expr, metrics, used)
			n++
		}
	}
	if raw, err = os.ReadFile("../docs/observing/alerts.yml"); err != nil {
		t.Fatal(err)
	}
	var alerts struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				For         string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	if err := decoder.Decode(&alerts); err != nil {
		t.Fatal(err)
	}
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			checkExpr(t, r.Alert, r.Expr, metrics, used)
			if r.Alert == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				t.Errorf("%+v", r)
			}
			n++
		}
	}
	if n < 20 || len(used) < 20 {
		t.Errorf("%d expressions, %d metrics", n, len(used))
	}
	page, err := os.ReadFile("../docs/observing.md")
	if err != nil {
		t.Fatal(err)
	}
	for m := range metrics {
		if metrics[m+"_bucket"] == nil && strings.Contains(m, "_seconds_") { // a part of a histogram
			continue
		}
		if !bytes.Contains(page, []byte("`"+m+"`")) {
			t.Errorf("docs/observing.md does not have %s", m)
		}
	}
}
