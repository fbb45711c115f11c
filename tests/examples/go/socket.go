package main

import (
	"context"
	"fmt"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

const frameBytesMax = 16 << 20 // the end of a long turn carries its whole text

// Chat says one thing over /ws and returns the tokens as they came, joined, and the run's end.
// With a token: offer the subprotocols "bearer" and the token, or send an Authorization header.
func Chat(ctx context.Context, url, text string) (tokens string, end map[string]any, err error) {
	socket, _, err := websocket.Dial(ctx, url+"/ws", nil)
	if err != nil {
		return "", nil, err
	}
	defer socket.CloseNow()
	socket.SetReadLimit(frameBytesMax)
	ask := map[string]any{"type": "chat", "id": 1, "text": text}
	if err := wsjson.Write(ctx, socket, ask); err != nil {
		return "", nil, err
	}
	run := ""
	for {
		var event map[string]any
		if err := wsjson.Read(ctx, socket, &event); err != nil {
			return tokens, nil, err
		}
		switch event["type"] {
		case "error":
			return tokens, nil, fmt.Errorf("%v: %v", event["code"], event["detail"])
		case "accepted":
			run = event["run_id"].(string)
		case "token":
			tokens += event["text"].(string)
		case "rewind": // said again under other ids
			tokens = ""
		case "end":
			if run == "" || event["run_id"] == run {
				return tokens, event, nil
			}
		}
	}
}
