package boottest

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNetwork is a box whose second interface is plugged in while it runs. It gets
// addresses there as well, and by IPv6 as its routers tell.
func TestNetwork(t *testing.T) {
	m := card(t, 4<<30)
	m.args = append(m.args, "-device", "qemu-xhci,id=x", "-netdev", "user,id=n1,net=10.7.0.0/24,ipv6-net=fd07::/64")
	v := start(t, m)
	me := &member{t: t, home: t.TempDir()}
	me.must("init", "--phrase-out", filepath.Join(me.home, "words"))
	me.pair(v, v.wait(pairingCode, 2*time.Minute)[1], 2*time.Minute)
	addresses := func(want ...string) {
		t.Helper()
		said := ""
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			said, _ = me.run("box", "status", "--json")
			missing := false
			for _, w := range want {
				missing = missing || !strings.Contains(said, w)
			}
			if !missing {
				return
			}
		}
		t.Errorf("the box does not have %v within a minute:\n%s", want, said)
	}
	addresses("10.0.2.15:", "[fec0:")

	v.qmp("device_add", map[string]any{"driver": "usb-net", "bus": "x.0", "netdev": "n1", "id": "plugged"})
	addresses("10.0.2.15:", "[fec0:", "10.7.0.15:", "[fd07:")
	v.qmp("device_del", map[string]any{"id": "plugged"})
	me.await(v, time.Minute)
	v.powerButton(30 * time.Second)
	v.sound()
}
