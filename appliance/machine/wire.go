package machine

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxLine bounds a line in bytes, with its newline.
const maxLine = 64 << 10

// maxOpen is how many questions may be open.
const maxOpen = 4

// question is what coboxd sends.
type question struct {
	ID     uint64          `json:"id"`
	Method string          `json:"method,omitempty"`
	Params json.RawMessage `json:"params,omitempty"`
	Cancel bool            `json:"cancel,omitempty"`
}

// answer is what the first process sends.
type answer struct {
	ID       uint64          `json:"id"`
	Progress json.RawMessage `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *Error          `json:"error,omitempty"`
}

func parseQuestion(line []byte) (*question, error) {
	q := new(question)
	if err := decode(line, q); err != nil {
		return nil, err
	}
	if q.ID == 0 || q.Cancel == (q.Method != "") || q.Cancel && q.Params != nil {
		return nil, errors.New("machine: a question that asks nothing, or two things")
	}
	return q, nil
}

func parseAnswer(line []byte) (*answer, error) {
	a := new(answer)
	if err := decode(line, a); err != nil {
		return nil, err
	}
	parts := 0
	for _, there := range []bool{a.Progress != nil, a.Result != nil, a.Error != nil} {
		if there {
			parts++
		}
	}
	if a.ID == 0 || parts != 1 {
		return nil, errors.New("machine: an answer that says nothing, or two things")
	}
	return a, nil
}

// decode reads one object and nothing else.
func decode(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("machine: %v", err) // an empty line is no end
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("machine: more than one JSON value")
	}
	return nil
}

// encode makes a line. What this package sends can always be encoded.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("machine: " + err.Error())
	}
	return append(b, '\n')
}

// lines reads lines until the connection ends; a line is valid until the next.
func lines(r io.Reader, each func([]byte) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	for s.Scan() {
		if err := each(s.Bytes()); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("machine: reading: %w", err)
	}
	return nil
}
