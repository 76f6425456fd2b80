package metrics

import (
	"reflect"
	"testing"

	"github.com/bellwether-go/cache"
)

// Each field of Stats is in one metric.
func TestAll(t *testing.T) {
	var s cache.Stats
	v := reflect.ValueOf(&s).Elem()
	fields := make(map[uint64]string)
	for i := range v.NumField() {
		v.Field(i).SetUint(uint64(i + 1))
		fields[uint64(i+1)] = v.Type().Field(i).Name
	}
	names := make(map[string]bool)
	for _, m := range All() {
		if names[m.Name] {
			t.Errorf("%s is there twice", m.Name)
		}
		names[m.Name] = true
		if (m.Label == "") != (len(m.Parts) == 1) || m.Help == "" || m.Unit == "" {
			t.Errorf("%+v", m)
		}
		for _, p := range m.Parts {
			n := p.Of(&s)
			if fields[n] == "" {
				t.Errorf("%s %s: field %d is there twice, or none", m.Name, p.Label, n)
			}
			delete(fields, n)
		}
	}
	for _, f := range fields {
		t.Errorf("Stats.%s is in no metric", f)
	}
}
