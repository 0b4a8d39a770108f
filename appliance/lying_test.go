package appliance_test

import (
	"errors"
	"testing"
	"time"

	"cobox/appliance/admin"
	"cobox/appliance/boxtest"
	"cobox/netlink/replicate"
	"cobox/storage/merklelog"
)

// liar offers a log and does not keep to it.
type liar struct {
	*boxtest.Log
	block  func(index uint64, b []byte)
	leaves func(l []merklelog.Leaf)
	proof  func(p merklelog.Proof) merklelog.Proof
	cp     func(cp merklelog.Checkpoint) merklelog.Checkpoint
}

func (l *liar) Block(index uint64, dst []byte) error {
	err := l.Log.Block(index, dst)
	if l.block != nil {
		l.block(index, dst)
	}
	return err
}

func (l *liar) Leaves(first uint64, n int) ([]merklelog.Leaf, error) {
	list, err := l.Log.Leaves(first, n)
	if l.leaves != nil {
		l.leaves(list)
	}
	return list, err
}

func (l *liar) Consistency(m, n uint64) (merklelog.Proof, error) {
	p, err := l.Log.Consistency(m, n)
	if l.proof != nil {
		p = l.proof(p)
	}
	return p, err
}

func (l *liar) Checkpoint() merklelog.Checkpoint {
	if l.cp == nil {
		return l.Log.Checkpoint()
	}
	return l.cp(l.Log.Checkpoint())
}

// A member whose device lies loses its link, is counted, and gets no receipt
// for the lie; the other members' sessions go on.
func TestLyingMember(t *testing.T) {
	ctx := testContext(t)
	b := start(t, t.TempDir())
	boss := b.device(ctx, b.info.Code)
	l := b.link(ctx, boss)
	honest := b.log(boss, 5)
	d := b.device(ctx, b.invite(ctx, l, 1<<30).Code)

	for name, lie := range map[string]func(*liar){
		"another block":      func(l *liar) { l.block = func(_ uint64, b []byte) { b[7] ^= 1 } },
		"a block of no type": func(l *liar) { l.block = func(_ uint64, b []byte) { b[0] = 9 } },
		"other leaves":       func(l *liar) { l.leaves = func(list []merklelog.Leaf) { list[len(list)-1][5] ^= 1 } },
		"a shorter proof":    func(l *liar) { l.proof = func(p merklelog.Proof) merklelog.Proof { return p[:max(0, len(p)-1)] } },
		"an unsigned checkpoint": func(l *liar) {
			l.cp = func(cp merklelog.Checkpoint) merklelog.Checkpoint { cp.Root[0] ^= 1; return cp }
		},
	} {
		lying := &liar{Log: b.log(d, 700)}
		lie(lying)
		m := b.link(ctx, d)
		o, err := m.Offer(lying)
		if err != nil {
			t.Fatal(err)
		}
		if receipt, err := o.WaitReceipt(ctx, 700); err == nil {
			t.Errorf("%s was receipted: %+v", name, receipt)
		}
		if err := m.Wait(); err == nil {
			t.Errorf("%s: the link ended as if nothing was wrong", name)
		}
		if err := honest.Append(2); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Backup(ctx, honest); err != nil {
			t.Fatalf("%s: the other member's session: %v", name, err)
		}
	}
	eventually(t, "counting the lies", func() bool { return b.metric(`cobox_sessions_ended_total{reason="violation"}`) == "5" })
	var events admin.Log
	b.ask(ctx, l, admin.MethodLog, admin.LogRequest{}, &events)
	told := 0
	for _, e := range events.Events {
		if e.Kind == admin.EventViolation && *e.Account == d.Member.Card.ID {
			told++
		}
	}
	if told != 1 {
		t.Errorf("%d events about the lies, want one", told)
	}
}

// stalled offers a log and then sends no block.
type stalled struct {
	*boxtest.Log
	release chan struct{}
}

func (s *stalled) Block(uint64, []byte) error {
	<-s.release
	return errors.New("released")
}

// Members who ask the box to wait for them do not keep another waiting.
func TestStalledMembers(t *testing.T) {
	ctx := testContext(t)
	b := start(t, t.TempDir())
	boss := b.device(ctx, b.info.Code)
	l := b.link(ctx, boss)
	release := make(chan struct{})
	defer close(release)
	for range 10 {
		d := b.device(ctx, b.invite(ctx, l, 1<<30).Code)
		m := b.link(ctx, d)
		if _, err := m.Offer(&stalled{b.log(d, 300), release}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the box's asking for the stalled blocks", func() bool { return b.metric("cobox_credit_bytes") != "0" })
	blocks := 500
	if testing.Short() {
		blocks = 100 // under emulation those are work enough
	}
	began := time.Now()
	if _, err := l.Backup(ctx, b.log(boss, blocks)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("%d blocks took %v beside members who stall", blocks, took)
	}
}

// What a peer may not have is refused, counted, and costs it nothing else.
func TestDenied(t *testing.T) {
	ctx := testContext(t)
	b := start(t, t.TempDir())
	boss := b.device(ctx, b.info.Code)
	l := b.link(ctx, boss)
	d := b.device(ctx, b.invite(ctx, l, 1<<30).Code)
	log := b.log(d, 2)
	m := b.link(ctx, d)
	if _, err := m.Backup(ctx, log); err != nil {
		t.Fatal(err)
	}
	_, err := l.Logs(ctx, d.Member.Card.ID)
	wantCode(t, "list", err, replicate.CodeNotAllowed)
	_, err = b.link(ctx, boss).Backup(ctx, b.log(d, 2))
	wantCode(t, "deliver", err, replicate.CodeNotAllowed)
	err = b.link(ctx, boss).Read(ctx, log.Manifest(), log.Checkpoint(), []uint64{0}, func(uint64, []byte, merklelog.Leaf) error { return nil })
	wantCode(t, "read", err, replicate.CodeNotAllowed)
	for _, what := range []string{"list", "deliver", "read"} {
		if got := b.metric(`cobox_denied_total{what="` + what + `"}`); got != "1" {
			t.Errorf("%s was denied %s times", what, got)
		}
	}
	b.ask(ctx, m, admin.MethodStatus, admin.StatusRequest{}, nil)
}

// A device begins ten logs a day, and no more.
func TestTooManyNewLogs(t *testing.T) {
	ctx := testContext(t)
	b := start(t, t.TempDir())
	d := b.device(ctx, b.info.Code)
	l := b.link(ctx, d)
	for range 10 {
		if _, err := l.Backup(ctx, b.log(d, 1)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := l.Backup(ctx, b.log(d, 1))
	wantCode(t, "eleventh log", err, replicate.CodeTooLarge)
	entries, err := l.Logs(ctx, d.Member.Card.ID)
	if err != nil || len(entries) != 10 {
		t.Errorf("%d logs, %v", len(entries), err)
	}
}
