// A backend, an auditor and a UI in Go, against a running turnstream.
//
//	go run . -bootstrap 127.0.0.1:9092 -edge ws://127.0.0.1:8123 -schemas ../../../schemas/records/avro
//
// It starts turns (JSON and Avro), answers a question, cancels a turn, reads results and events,
// chats over /ws, and prints what it saw as one JSON object.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"crypto/rand"
)

func main() {
	bootstrap := flag.String("bootstrap", "127.0.0.1:9092", "Kafka's host:port")
	prefix := flag.String("prefix", "", "stands before every topic's name")
	edge := flag.String("edge", "ws://127.0.0.1:8123", "the edge, as a WebSocket URL")
	folder := flag.String("schemas", "../../../schemas/records/avro", "folder of the .avsc files")
	vectors := flag.String("vectors", "../../vectors/avro.json", "test vectors")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	seen, err := converse(ctx, *bootstrap, *prefix, *edge, *folder, *vectors)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(seen)
}

func converse(ctx context.Context, bootstrap, prefix, edge, folder, vectors string) (map[string]any, error) {
	schemas, err := LoadSchemas(folder)
	if err != nil {
		return nil, err
	}
	same, all, err := CheckVectors(schemas, vectors)
	if err != nil {
		return nil, err
	}
	backend, err := NewBackend(bootstrap, prefix, "default", schemas)
	if err != nil {
		return nil, err
	}
	defer backend.client.Close()

	// 1. a turn as one JSON object
	asked := newID()
	if err := backend.PublishJSON(ctx, map[string]any{
		"thread_id": "go", "text": "tokens=5", "correlation_id": asked,
	}); err != nil {
		return nil, err
	}
	byJSON, err := backend.Result(ctx, asked)
	if err != nil {
		return nil, err
	}

	// 2. the same in Avro
	asked = newID()
	command, err := schemas.Encode("StartTurn", map[string]any{
		"tenant": "", "thread_id": "go", "turn_id": "", "idempotency_key": "", "at": int64(0),
		"actor": "go", "traceparent": "", "correlation_id": asked, "graph": "agent",
		"text": "tokens=5", "input": "", "config": "", "metadata": "", "expires_at": int64(0),
		"priority": int64(0), "on_busy": "enqueue",
	})
	if err != nil {
		return nil, err
	}
	if err := backend.Publish(ctx, "go", command); err != nil {
		return nil, err
	}
	byAvro, err := backend.Result(ctx, asked)
	if err != nil {
		return nil, err
	}

	// 3. a graph asks, and is answered by a ResumeTurn
	asked = newID()
	if err := backend.PublishJSON(ctx, map[string]any{
		"thread_id": "go-asks", "graph": "approval", "correlation_id": asked,
		"input": map[string]any{"messages": []any{map[string]any{"role": "user", "content": "How many?"}}},
	}); err != nil {
		return nil, err
	}
	question, err := backend.Result(ctx, asked)
	if err != nil {
		return nil, err
	}
	open, _ := question["interrupts"].([]any)
	if len(open) != 1 {
		return nil, fmt.Errorf("one question expected: %v", question)
	}
	id := open[0].(map[string]any)["id"].(string)
	asked = newID()
	if err := backend.PublishJSON(ctx, map[string]any{
		"type": "ResumeTurn", "thread_id": "go-asks", "graph": "approval",
		"correlation_id": asked, "answers": map[string]any{id: true},
	}); err != nil {
		return nil, err
	}
	answered, err := backend.Result(ctx, asked)
	if err != nil {
		return nil, err
	}

	// 4. a turn that is cancelled: the cancel names its turn id
	asked = newID()
	turn := newID()
	if err := backend.PublishJSON(ctx, map[string]any{
		"thread_id": "go-stops", "text": "tokens=100000 rate=20", "turn_id": turn,
		"correlation_id": asked,
	}); err != nil {
		return nil, err
	}
	if err := backend.PublishJSON(ctx, map[string]any{
		"type": "CancelTurn", "thread_id": "go-stops", "turn_id": turn,
	}); err != nil {
		return nil, err
	}
	cancelled, err := backend.Result(ctx, asked)
	if err != nil {
		return nil, err
	}

	// 5. the log, as an auditor reads it
	log, err := ReadEvents(ctx, bootstrap, prefix, byAvro["turn_id"].(string), schemas)
	if err != nil {
		return nil, err
	}

	// 6. a UI
	tokens, end, err := Chat(ctx, edge, "tokens=5")
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"vectors":   []int{same, all},
		"json":      byJSON,
		"avro":      byAvro,
		"question":  question["status"],
		"answered":  answered,
		"cancelled": cancelled["status"],
		"log":       log,
		"socket":    map[string]any{"tokens": tokens, "end": end},
	}, nil
}

// newID returns a random UUID (version 4).
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
