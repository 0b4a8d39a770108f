package replicate

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cobox/storage/account"
	"cobox/storage/merklelog"
)

// TestBoxAgainstLiars sends a box what no honest device sends. Each time the
// session must end with a reason, and the store must hold nothing false.
func TestBoxAgainstLiars(t *testing.T) {
	log := NewTestLog("alice", "laptop", "log").Add(40)
	for name, lie := range map[string]func(p *rawPeer){
		"second hello":  func(p *rawPeer) { p.send(kindHello, 0, appendHello(nil, &Hello{Version: 1})) },
		"unknown type":  func(p *rawPeer) { p.send(0x7f, 1, nil) },
		"reserved type": func(p *rawPeer) { p.send(0x40, 1, nil) },
		"long message": func(p *rawPeer) {
			p.conn.Write(appendHeader(nil, header{kindOffer, 1, maxBody + 1}))
		},
		"longest message": func(p *rawPeer) {
			p.conn.Write(appendHeader(nil, header{kindOffer, 1, 1<<32 - 1}))
		},
		"ping with a body": func(p *rawPeer) { p.send(kindPing, 0, []byte{1}) },
		"garbage offer":    func(p *rawPeer) { p.send(kindOffer, 1, []byte("garbage")) },
		"offer twice":      func(p *rawPeer) { p.offer(1, log); p.offer(1, log) },
		"checkpoint of another": func(p *rawPeer) {
			p.send(kindOffer, 1, appendOffer(nil, &offer{NewTestLog("alice", "laptop", "other").Add(1).Checkpoint(), log.manifest}))
		},
		"checkpoint forged": func(p *rawPeer) {
			cp := log.Checkpoint()
			cp.Size++
			p.send(kindOffer, 1, appendOffer(nil, &offer{cp, log.manifest}))
		},
		"certificate forged": func(p *rawPeer) {
			m := *log.manifest
			c := *must(account.ParseCertificate(m.Certificate))
			c.Account = testAccount("mallory")
			m.Certificate = account.AppendCertificate(nil, &c)
			if err := merklelog.SignManifest(&m, log.key); err != nil {
				p.t.Fatal(err)
			}
			cp := must(merklelog.SignCheckpoint(log.key, m.ID(), 1, merklelog.Hash{}))
			p.send(kindOffer, 1, appendOffer(nil, &offer{cp, &m}))
		},
		"too many offers": func(p *rawPeer) {
			for i := range uint32(maxOffers + 1) {
				p.offer(i+1, NewTestLog("alice", "laptop", string(rune('a'+i))).Add(1))
			}
		},
		"advance without an offer": func(p *rawPeer) { p.send(kindAdvance, 9, appendAdvance(nil, &advance{log.Checkpoint(), 1, nil})) },
		"leaves not wanted": func(p *rawPeer) {
			p.upToWant(log)
			p.send(kindLeaves, 1, merklelog.AppendBatch(nil, batch(log, 0, 40, 40)))
		},
		"leaves of another log": func(p *rawPeer) {
			p.offer(1, log)
			p.want(kindWantLeaves)
			p.send(kindLeaves, 1, merklelog.AppendBatch(nil, batch(NewTestLog("alice", "laptop", "other").Add(40), 0, 40, 40)))
		},
		"leaves out of turn": func(p *rawPeer) {
			p.offer(1, log)
			p.want(kindWantLeaves)
			p.send(kindLeaves, 1, merklelog.AppendBatch(nil, batch(log, 1, 20, 40)))
		},
		"leaves with a wrong proof": func(p *rawPeer) {
			p.offer(1, log)
			p.want(kindWantLeaves)
			b := batch(log, 0, 20, 40)
			b.Proof[0][0] ^= 1
			p.send(kindLeaves, 1, merklelog.AppendBatch(nil, b))
		},
		"advance with a wrong proof": func(p *rawPeer) {
			p.upToWant(log)
			long := NewTestLog("alice", "laptop", "log").Add(50)
			proof := must(long.Consistency(40, 50))
			proof[1][3] ^= 1
			p.send(kindAdvance, 1, appendAdvance(nil, &advance{long.Checkpoint(), 40, proof}))
		},
		"two advances at once": func(p *rawPeer) {
			p.offer(1, log)
			p.want(kindWantLeaves) // under way, so that the first must wait
			a := appendAdvance(nil, &advance{log.Checkpoint(), 40, nil})
			p.send(kindAdvance, 1, a)
			p.send(kindAdvance, 1, a)
		},
		"block without an offer": func(p *rawPeer) { p.send(kindBlock, 1, blockBodyOf(log, 0)) },
		"block not wanted yet": func(p *rawPeer) {
			p.offer(1, log)
			p.want(kindWantLeaves)
			p.send(kindBlock, 1, blockBodyOf(log, 0))
		},
		"block out of turn": func(p *rawPeer) { p.upToWant(log); p.send(kindBlock, 1, blockBodyOf(log, 1)) },
		"block twice": func(p *rawPeer) {
			p.upToWant(log)
			p.send(kindBlock, 1, blockBodyOf(log, 0))
			p.send(kindBlock, 1, blockBodyOf(log, 0))
		},
		"block with a bit changed": func(p *rawPeer) {
			p.upToWant(log)
			b := blockBodyOf(log, 0)
			b[1000] ^= 1
			p.send(kindBlock, 1, b)
		},
		"hole out of turn": func(p *rawPeer) {
			p.upToWant(log)
			p.send(kindHole, 1, appendHole(nil, merklelog.Range{First: 3, Count: 1}))
		},
		"block after close": func(p *rawPeer) {
			p.upToWant(log)
			p.send(kindClose, 1, appendError(nil, &Error{}))
			p.want(kindError)
			p.send(kindBlock, 1, blockBodyOf(log, 0))
		},
		"receipt from a device":     func(p *rawPeer) { p.send(kindReceipt, 1, nil) },
		"data that was not asked":   func(p *rawPeer) { p.send(kindData, 1, blockBodyOf(log, 0)) },
		"reply that was not asked":  func(p *rawPeer) { p.send(kindReply, 1, []byte{0}) },
		"error that was not asked":  func(p *rawPeer) { p.send(kindError, 1, appendError(nil, &Error{})) },
		"read of nothing":           func(p *rawPeer) { p.send(kindRead, 1, appendRead(nil, &read{size: 1})) },
		"request that is malformed": func(p *rawPeer) { p.send(kindRequest, 1, []byte{3, 'A', 'B', 'C'}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				box := newTestBox(newMemStore(), "alice")
				p, s := newRawPeer(t, box.config("alice"))
				lie(p)
				p.wantViolation(s)
				if n := box.store.held(log.ID()); n > 1 {
					t.Errorf("%d blocks were stored", n)
				}
				if blocks, sessions := s.cfg.Limits.InUse(); blocks != 0 || sessions != 0 {
					t.Errorf("%d blocks of credit are still taken", blocks)
				}
			})
		})
	}
}

// TestDeviceAgainstLiars is the same the other way round.
func TestDeviceAgainstLiars(t *testing.T) {
	log := NewTestLog("alice", "laptop", "log").Add(40)
	cp := log.Checkpoint()
	offered := func(p *rawPeer, s *running) {
		must(s.Offer(log))
		p.want(kindOffer)
	}
	known0 := func(p *rawPeer, s *running) {
		offered(p, s)
		p.send(kindKnown, 1, appendKnown(nil, &known{cp, 0, 0}))
	}
	receipt := func(p *rawPeer, change func(r *Receipt), key string) {
		r := NewReceipt(&merklelog.Durable{Checkpoint: cp, Held: 40, HolesDigest: merklelog.DigestRanges(nil)})
		change(&r)
		if err := SignReceipt(&r, edKey(key)); err != nil {
			p.t.Fatal(err)
		}
		p.send(kindReceipt, 1, appendReceipted(nil, &receipted{receipt: &r}))
	}
	asked := func(p *rawPeer, s *running) *read {
		go s.Read(context.Background(), log.manifest, cp, []uint64{3, 4, 5}, func(uint64, []byte, merklelog.Leaf) error {
			p.t.Error("a block was delivered")
			return nil
		})
		return must(parseRead(p.want(kindRead).body))
	}
	honestPath := func(r *read) *path {
		sub := r.paths[0]
		n := sub.count(r.size)
		proof := must(log.tree.Inclusion(sub.first, r.size))
		inner := 0
		for 1<<inner < n {
			inner++
		}
		return &path{sub.first, must(log.Leaves(sub.first, n)), proof[inner:]}
	}
	for name, lie := range map[string]func(p *rawPeer, s *running){
		"known before an offer": func(p *rawPeer, s *running) { p.send(kindKnown, 1, appendKnown(nil, &known{cp, 0, 0})) },
		"known twice": func(p *rawPeer, s *running) {
			known0(p, s)
			p.send(kindKnown, 1, appendKnown(nil, &known{cp, 0, 0}))
		},
		"known forged": func(p *rawPeer, s *running) {
			offered(p, s)
			forged := cp
			forged.Size = 41
			p.send(kindKnown, 1, appendKnown(nil, &known{forged, 0, 0}))
		},
		"known of another log": func(p *rawPeer, s *running) {
			offered(p, s)
			p.send(kindKnown, 1, appendKnown(nil, &known{NewTestLog("alice", "laptop", "other").Add(3).Checkpoint(), 0, 0}))
		},
		"leaves beyond the log": func(p *rawPeer, s *running) {
			known0(p, s)
			p.send(kindWantLeaves, 1, appendWantLeaves(nil, &wantLeaves{0, 41, 41}))
		},
		"blocks beyond the log": func(p *rawPeer, s *running) {
			known0(p, s)
			p.send(kindWant, 1, appendWant(nil, []merklelog.Range{{First: 40, Count: 1}}))
		},
		"a flood of wants": func(p *rawPeer, s *running) {
			known0(p, s)
			log.mu.Lock() // the source is slow
			defer log.mu.Unlock()
			for range maxWants + 3 {
				if p.send(kindWant, 1, appendWant(nil, []merklelog.Range{{First: 0, Count: 40}})) != nil {
					return
				}
			}
		},
		"receipt of another box":  func(p *rawPeer, s *running) { known0(p, s); receipt(p, func(*Receipt) {}, "other box") },
		"receipt of another log":  func(p *rawPeer, s *running) { known0(p, s); receipt(p, func(r *Receipt) { r.Log[0] ^= 1 }, "box") },
		"receipt of another root": func(p *rawPeer, s *running) { known0(p, s); receipt(p, func(r *Receipt) { r.Root[0] ^= 1 }, "box") },
		"receipt of what is not": func(p *rawPeer, s *running) {
			known0(p, s)
			receipt(p, func(r *Receipt) { r.Size, r.Held = 41, 41 }, "box")
		},
		"receipt that was changed": func(p *rawPeer, s *running) {
			known0(p, s)
			b := appendReceipted(nil, &receipted{receipt: testReceipt(cp, nil)})
			b[170] ^= 1
			p.send(kindReceipt, 1, b)
		},
		"fork that is none": func(p *rawPeer, s *running) {
			offered(p, s)
			p.send(kindFork, 1, merklelog.AppendFork(nil, merklelog.Fork{A: cp, B: cp}))
		},
		"advance from the other side": func(p *rawPeer, s *running) {
			offered(p, s)
			p.send(kindAdvance, 1, appendAdvance(nil, &advance{cp, 40, nil}))
		},
		"data out of turn": func(p *rawPeer, s *running) { asked(p, s); p.send(kindData, 1, blockBodyOf(log, 3)) },
		"path that is wrong": func(p *rawPeer, s *running) {
			h := honestPath(asked(p, s))
			h.leaves[len(h.leaves)-1][5] ^= 1
			p.send(kindPath, 1, appendPath(nil, h))
		},
		"path of another subtree": func(p *rawPeer, s *running) {
			h := honestPath(asked(p, s))
			h.first += 64
			p.send(kindPath, 1, appendPath(nil, h))
		},
		"data with a bit changed": func(p *rawPeer, s *running) {
			p.send(kindPath, 1, appendPath(nil, honestPath(asked(p, s))))
			b := blockBodyOf(log, 3)
			b[9000] ^= 4
			p.send(kindData, 1, b)
		},
		"data of another block": func(p *rawPeer, s *running) {
			p.send(kindPath, 1, appendPath(nil, honestPath(asked(p, s))))
			b := blockBodyOf(log, 4)
			binary.BigEndian.PutUint64(b, 3)
			p.send(kindData, 1, b)
		},
		"absent out of turn": func(p *rawPeer, s *running) {
			p.send(kindPath, 1, appendPath(nil, honestPath(asked(p, s))))
			p.send(kindAbsent, 1, appendAbsent(nil, absent{5, CodeNotHeld}))
		},
		"log of another account": func(p *rawPeer, s *running) {
			go s.Logs(context.Background(), testAccount("bob"))
			p.want(kindLogs)
			p.send(kindLog, 1, appendLogEntry(nil, &LogEntry{Manifest: log.manifest, Checkpoint: cp}))
		},
		"logs that are not counted": func(p *rawPeer, s *running) {
			go s.Logs(context.Background(), testAccount("alice"))
			p.want(kindLogs)
			p.send(kindLogsEnd, 1, appendLogsEnd(nil, 1))
		},
		"an endless reply": func(p *rawPeer, s *running) {
			go s.Request(context.Background(), "status", nil, nil)
			p.want(kindRequest)
			part := appendReply(nil, &reply{more: true, part: make([]byte, maxPart)})
			for p.send(kindReply, 1, part) == nil {
			}
		},
		"a log in answer to a request": func(p *rawPeer, s *running) {
			go s.Request(context.Background(), "status", nil, nil)
			p.want(kindRequest)
			p.send(kindLogsEnd, 1, appendLogsEnd(nil, 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log.mu.Lock()
				log.changed = make(chan struct{}) // of this bubble
				log.mu.Unlock()
				p, s := newRawPeer(t, deviceConfig())
				lie(p, s)
				p.wantViolation(s)
			})
		})
	}
}

// TestRefusals asks for what is well formed and not allowed. The session goes on.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newTestBox(newMemStore(), "alice")
		dev, srv := startPair(t, deviceConfig(), box.config("bob"))
		mallory := NewTestLog("mallory", "her laptop", "log").Add(3)
		o := must(dev.Offer(mallory))
		if _, err := o.WaitReceipt(t.Context(), 3); codeOf(err) != CodeNotAllowed {
			t.Errorf("a log of no member: %v", err)
		}
		if len(box.store.logs) != 0 {
			t.Error("a log of no member was stored")
		}
		// A log proves itself: bob may bring alice's, but not read it.
		log := NewTestLog("alice", "laptop", "log").Add(3)
		if _, err := must(dev.Offer(log)).WaitReceipt(t.Context(), 3); err != nil {
			t.Errorf("a member's log brought by somebody else: %v", err)
		}
		fn := func(uint64, []byte, merklelog.Leaf) error { t.Error("a block was delivered"); return nil }
		if err := dev.Read(t.Context(), log.manifest, log.Checkpoint(), []uint64{0}, fn); codeOf(err) != CodeNotAllowed {
			t.Errorf("reading another's log: %v", err)
		}
		if err := dev.Read(t.Context(), mallory.manifest, mallory.Checkpoint(), []uint64{0}, fn); codeOf(err) != CodeUnknownLog {
			t.Errorf("reading a log that is not there: %v", err)
		}
		bad := log.Checkpoint()
		bad.Sig[0] ^= 1
		if err := dev.Read(t.Context(), log.manifest, bad, []uint64{0}, fn); !errors.Is(err, merklelog.ErrSignature) {
			t.Errorf("reading by an unsigned checkpoint: %v", err)
		}
		// The other way round the device holds and serves nothing.
		if _, err := must(srv.Offer(log)).WaitReceipt(t.Context(), 3); codeOf(err) != CodeNotAllowed {
			t.Errorf("offering to a device: %v", err)
		}
		if err := srv.Read(t.Context(), log.manifest, log.Checkpoint(), []uint64{0}, fn); codeOf(err) != CodeNotAllowed {
			t.Errorf("reading from a device: %v", err)
		}
		if _, err := srv.Request(t.Context(), "status", nil, nil); codeOf(err) != CodeUnsupported {
			t.Errorf("administering a device: %v", err)
		}
		stopPair(t, dev, srv)
	})
}

func codeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeNone
}

// TestFloods sends a box more than it can answer, without reading the answers.
// It must neither grow nor hang.
func TestFloods(t *testing.T) {
	log := NewTestLog("alice", "laptop", "log").Add(3)
	for name, flood := range map[string]func(p *rawPeer, i uint32) error{
		"pings": func(p *rawPeer, i uint32) error { return p.send(kindPing, 0, nil) },
		"requests": func(p *rawPeer, i uint32) error {
			return p.send(kindRequest, i, appendRequest(nil, &request{"wait", nil}))
		},
		"reads": func(p *rawPeer, i uint32) error {
			return p.send(kindRead, i, appendRead(nil, &read{log: log.ID(), size: 3, indexes: []uint64{0, 1, 2}}))
		},
		"offers": func(p *rawPeer, i uint32) error {
			p.send(kindOffer, i, appendOffer(nil, &offer{log.Checkpoint(), log.manifest}))
			return p.send(kindClose, i, appendError(nil, &Error{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				box := newTestBox(newMemStore(), "alice")
				box.serve = func(ctx context.Context, _ *Request) ([]byte, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				dev, s := startPair(t, deviceConfig(), box.config("alice"))
				if _, err := must(dev.Offer(log.here())).WaitReceipt(t.Context(), 3); err != nil {
					t.Fatal(err)
				}
				stopPair(t, dev, s)

				a, b := net.Pipe()
				s = startSession(t, a, box.config("alice"))
				p := &rawPeer{t: t, conn: b} // nobody reads
				p.send(kindHello, 0, appendHello(nil, &Hello{Version: Version}))
				start := time.Now()
				var sending sync.WaitGroup
				sending.Go(func() {
					for i := uint32(1); flood(p, i) == nil; i++ {
						time.Sleep(time.Millisecond) // or no time would pass in here
						s.out.mu.Lock()
						n := len(s.out.control)
						s.out.mu.Unlock()
						if n > maxControl {
							t.Errorf("%d messages wait", n)
							return
						}
					}
				})
				err := <-s.end
				if err == nil {
					t.Error("the session ended in order")
				}
				if d := time.Since(start); d > 2*time.Minute {
					t.Errorf("it took %v to get rid of the peer", d)
				}
				p.conn.Close()
				sending.Wait()
			})
		})
	}
}

// here makes the log's channel one of this bubble.
func (l *TestLog) here() *TestLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changed = make(chan struct{})
	return l
}
