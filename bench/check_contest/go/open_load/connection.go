package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	waiting      = 8192
	firstWindow  = 65535
	windowStep   = 16384
	sweepEvery   = 20 * time.Millisecond
	maxFrameSize = 16384
)

// call is one check under way; what becomes of it is told to its period once.
type call struct {
	asked question
	sent  time.Time
	in    *period
	code  string
	text  string
	data  []byte
	// Whether a stream is kept for it, since it waited for one.
	hasRoom bool
}

// connection speaks as much of HTTP/2 as unary calls need, for a hundredth of a core for each
// thousand calls: a load must not be slower than what it loads. One goroutine writes, one reads.
//
// Spec: RFC 9113; gRPC over HTTP/2.
type connection struct {
	over    net.Conn
	block   []byte
	timeout time.Duration
	tell    func(*call)
	retry   func(*call)
	lost    func(*connection)
	queue   *queue

	// Either a call to send, or something to write.
	out chan any

	lock    sync.Mutex
	room    *sync.Cond
	calls   map[uint32]*call
	next    uint32
	window  int64
	streams uint32
	kept    uint32
	waiting []*call
	dead    bool
}

func dial(address string, timeout time.Duration, tell, retry func(*call), lost func(*connection), queue *queue) (*connection, error) {
	over, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	c := &connection{
		over: over, block: headBlock(address, timeout), timeout: timeout,
		tell: tell, retry: retry, lost: lost, queue: queue,
		out: make(chan any, waiting), calls: map[uint32]*call{}, next: 1, window: firstWindow, streams: 1 << 30,
	}
	c.room = sync.NewCond(&c.lock)
	go c.write()
	go c.read()
	go c.sweep()
	return c, nil
}

// headBlock is the head of every call. Nothing in it is indexed, so that it can be sent again.
func headBlock(address string, timeout time.Duration) []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"},
		{":path", "/envoy.service.auth.v3.Authorization/Check"}, {":authority", address},
		{"content-type", "application/grpc"}, {"te", "trailers"},
		{"grpc-timeout", fmt.Sprintf("%dm", timeout.Milliseconds())},
	} {
		// Writing to a buffer does not fail.
		_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1], Sensitive: true})
	}
	return block.Bytes()
}

func (c *connection) write() {
	buffer := bufio.NewWriterSize(c.over, 1<<16)
	framer := http2.NewFramer(buffer, nil)
	_, err := buffer.WriteString(http2.ClientPreface)
	if err == nil {
		err = framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	}
	for err == nil {
		if len(c.out) == 0 {
			if err = buffer.Flush(); err != nil {
				break
			}
		}
		switch item := (<-c.out).(type) {
		case nil:
			return
		case func(*http2.Framer) error:
			err = item(framer)
		case *call:
			err = c.send(framer, buffer, item)
		}
	}
	c.over.Close()
}

// send opens a stream for a call, once the connection's window has room for it.
func (c *connection) send(framer *http2.Framer, buffer *bufio.Writer, item *call) error {
	body := make([]byte, headBytes, headBytes+len(item.asked.message))
	binary.BigEndian.PutUint32(body[1:], uint32(len(item.asked.message)))
	body = append(body, item.asked.message...)
	c.lock.Lock()
	if !c.hasRoom(item) {
		c.lock.Unlock()
		return nil
	}
	id := c.next
	c.next += 2
	c.calls[id] = item
	for c.window < int64(len(body)) && !c.dead {
		c.lock.Unlock()
		err := buffer.Flush()
		c.lock.Lock()
		if err != nil {
			c.lock.Unlock()
			return err
		}
		if c.window < int64(len(body)) && !c.dead {
			c.room.Wait()
		}
	}
	c.window -= int64(len(body))
	c.lock.Unlock()
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block, EndHeaders: true}); err != nil {
		return err
	}
	for len(body) > maxFrameSize {
		if err := framer.WriteData(id, false, body[:maxFrameSize]); err != nil {
			return err
		}
		body = body[maxFrameSize:]
	}
	return framer.WriteData(id, true, body)
}

// hasRoom says whether a stream may be opened for a call; one that has none waits, or is held back.
func (c *connection) hasRoom(item *call) bool {
	switch {
	case item.hasRoom:
		item.hasRoom = false
		c.kept--
		return true
	case uint32(len(c.calls))+c.kept < c.streams:
		return true
	case c.queue.enter():
		c.waiting = append(c.waiting, item)
	default:
		item.code = heldBack
		c.tell(item)
	}
	return false
}

// takeNext takes out who waited longest for the stream that is free now.
func (c *connection) takeNext() *call {
	if len(c.waiting) == 0 || uint32(len(c.calls))+c.kept >= c.streams {
		return nil
	}
	item := c.waiting[0]
	c.waiting = c.waiting[1:]
	c.queue.leave(1)
	c.kept++
	item.hasRoom = true
	return item
}

// leaveAll takes out all that wait, for there is nothing to wait for any more.
func (c *connection) leaveAll() []*call {
	found := c.waiting
	c.waiting = nil
	c.queue.leave(len(found))
	return found
}

func (c *connection) read() {
	framer := http2.NewFramer(io.Discard, bufio.NewReaderSize(c.over, 1<<16))
	var status, message string
	decoder := hpack.NewDecoder(4096, func(field hpack.HeaderField) {
		switch field.Name {
		case "grpc-status":
			status = field.Value
		case "grpc-message":
			message = field.Value
		}
	})
	var unacknowledged uint32
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			c.end(err)
			return
		}
		switch frame := frame.(type) {
		case *http2.HeadersFrame:
			status, message = "", ""
			if _, err := decoder.Write(frame.HeaderBlockFragment()); err != nil || !frame.HeadersEnded() {
				c.end(fmt.Errorf("a head that cannot be read: %v", err))
				return
			}
			if frame.StreamEnded() {
				c.finish(frame.StreamID, codeName(status), message)
			}
		case *http2.DataFrame:
			unacknowledged += frame.Length
			c.take(frame)
			if unacknowledged >= windowStep {
				grown := unacknowledged
				unacknowledged = 0
				c.out <- func(framer *http2.Framer) error { return framer.WriteWindowUpdate(0, grown) }
			}
		case *http2.RSTStreamFrame:
			c.finish(frame.StreamID, resetName(frame.ErrCode), "reset: "+frame.ErrCode.String())
		case *http2.GoAwayFrame:
			c.goAway(frame.LastStreamID)
		default:
			c.control(frame)
		}
	}
}

// control follows what the server says of the connection.
func (c *connection) control(frame http2.Frame) {
	switch frame := frame.(type) {
	case *http2.SettingsFrame:
		if frame.IsAck() {
			return
		}
		if value, is := frame.Value(http2.SettingMaxConcurrentStreams); is {
			c.lock.Lock()
			c.streams = value
			c.lock.Unlock()
		}
		c.out <- func(framer *http2.Framer) error { return framer.WriteSettingsAck() }
	case *http2.PingFrame:
		if data := frame.Data; !frame.IsAck() {
			c.out <- func(framer *http2.Framer) error { return framer.WritePing(true, data) }
		}
	case *http2.WindowUpdateFrame:
		if frame.StreamID == 0 {
			c.lock.Lock()
			c.window += int64(frame.Increment)
			c.lock.Unlock()
			c.room.Signal()
		}
	}
}

func (c *connection) take(frame *http2.DataFrame) {
	c.lock.Lock()
	item := c.calls[frame.StreamID]
	c.lock.Unlock()
	if item != nil {
		item.data = append(item.data, frame.Data()...)
	}
	if frame.StreamEnded() {
		c.finish(frame.StreamID, "Internal", "an answer without its status")
	}
}

func (c *connection) finish(id uint32, code, text string) {
	c.lock.Lock()
	item := c.calls[id]
	delete(c.calls, id)
	next := c.takeNext()
	c.lock.Unlock()
	if next != nil {
		c.out <- next
	}
	if item != nil {
		item.code, item.text = code, text
		c.tell(item)
	}
}

// goAway sends elsewhere what the server did not begin with; the rest it still answers.
func (c *connection) goAway(last uint32) {
	c.lost(c)
	c.lock.Lock()
	again := c.leaveAll()
	for id, item := range c.calls {
		if id > last {
			again = append(again, item)
			delete(c.calls, id)
		}
	}
	c.lock.Unlock()
	for _, item := range again {
		c.retry(item)
	}
}

// end gives up what is open on a connection that is gone.
func (c *connection) end(err error) {
	c.over.Close()
	c.lost(c)
	c.lock.Lock()
	c.dead = true
	open := c.calls
	c.calls = map[uint32]*call{}
	waited := c.leaveAll()
	c.lock.Unlock()
	c.room.Signal()
	for _, item := range waited {
		c.retry(item)
	}
	for _, item := range open {
		item.code, item.text = "Unavailable", fmt.Sprint("connection lost: ", err)
		c.tell(item)
	}
	for {
		select {
		case item := <-c.out:
			if item, is := item.(*call); is {
				item.hasRoom = false
				c.retry(item)
			}
		case <-time.After(time.Second):
			c.out <- nil
			return
		}
	}
}

// sweep gives up calls whose time is over.
func (c *connection) sweep() {
	for range time.Tick(sweepEvery) {
		var late []uint32
		until := time.Now().Add(-c.timeout)
		c.lock.Lock()
		dead := c.dead
		for id, item := range c.calls {
			if item.sent.Before(until) {
				late = append(late, id)
			}
		}
		given := c.giveUp(until)
		c.lock.Unlock()
		if dead {
			return
		}
		for _, item := range given {
			c.tell(item)
		}
		for _, id := range late {
			c.finish(id, "DeadlineExceeded", "no answer in time")
			c.out <- func(framer *http2.Framer) error { return framer.WriteRSTStream(id, http2.ErrCodeCancel) }
		}
	}
}

// giveUp takes out who waited for a stream for all of its time; the first has waited longest.
func (c *connection) giveUp(until time.Time) []*call {
	count := 0
	for count < len(c.waiting) && c.waiting[count].sent.Before(until) {
		c.waiting[count].code, c.waiting[count].text = "DeadlineExceeded", "never sent"
		count++
	}
	given := c.waiting[:count]
	c.waiting = c.waiting[count:]
	c.queue.leave(count)
	return given
}
