package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Backend publishes commands of one tenant and reads its results.
type Backend struct {
	client  *kgo.Client
	schemas *Schemas
	prefix  string
	tenant  string
}

// NewBackend reads results from the topic's end on, so open it before the first command.
func NewBackend(bootstrap, prefix, tenant string, schemas *Schemas) (*Backend, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		// Kafka's own partitioner, as Java clients have it: keeps a thread's commands in order
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		kgo.ConsumeTopics(prefix+"turn-results."+tenant),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		return nil, err
	}
	return &Backend{client, schemas, prefix, tenant}, nil
}

// Publish sends a command. The key `tenant/thread_id` keeps the order of a thread's commands.
func (b *Backend) Publish(ctx context.Context, threadID string, value []byte) error {
	record := &kgo.Record{
		Topic: b.prefix + "turns." + b.tenant,
		Key:   []byte(b.tenant + "/" + threadID),
		Value: value,
	}
	return b.client.ProduceSync(ctx, record).FirstErr()
}

// PublishJSON sends a command as one JSON object.
func (b *Backend) PublishJSON(ctx context.Context, command map[string]any) error {
	value, err := json.Marshal(command)
	if err != nil {
		return err
	}
	return b.Publish(ctx, command["thread_id"].(string), value)
}

// Result waits for the TurnResult with this correlation id.
func (b *Backend) Result(ctx context.Context, correlationID string) (map[string]any, error) {
	for {
		fetches := b.client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("waiting for the result of %s: %w", correlationID, err)
		}
		var found map[string]any
		var failed error
		fetches.EachRecord(func(record *kgo.Record) {
			name, fields, err := b.schemas.Decode(record.Value)
			if err != nil {
				failed = err
			} else if name == "TurnResult" && fields["correlation_id"] == correlationID {
				found = fields
			}
		})
		if found != nil || failed != nil {
			return found, failed
		}
	}
}

// Log is what ReadEvents found.
type Log struct {
	Records int            `json:"records"`
	Unknown int            `json:"unknown"`
	Types   map[string]int `json:"types"`
	// Text of the turn that was asked for, joined from its tokens, and whether its SHA-256 is the
	// one in MessageFinished. This holds for a turn of one attempt: a reader that must survive the
	// death of a worker implements the fold (ARCHITECTURE.md, tests/vectors/fold.json).
	Text    string `json:"text"`
	Matches bool   `json:"matches"`
}

// ReadEvents reads turn-events from its beginning to the terminal event of the turn.
func ReadEvents(ctx context.Context, bootstrap, prefix, turnID string, schemas *Schemas) (*Log, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.ConsumeTopics(prefix+"turn-events"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	seen := &Log{Types: map[string]int{}}
	for {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return seen, err
		}
		over := false
		var failed error
		fetches.EachRecord(func(record *kgo.Record) {
			seen.Records++
			name, fields, err := schemas.Decode(record.Value)
			if err != nil {
				failed = err
				return
			}
			if name == "" {
				seen.Unknown++
				return
			}
			seen.Types[name]++
			if fields["turn_id"] != turnID {
				return
			}
			switch name {
			case "TokensEmitted":
				if fields["kind"] == "text" {
					seen.Text += fields["text"].(string)
				}
			case "TurnCompleted":
				digest := sha256.Sum256([]byte(seen.Text))
				seen.Matches = hex.EncodeToString(digest[:]) == fields["sha256"]
				over = true
			}
		})
		if over || failed != nil {
			return seen, failed
		}
	}
}
