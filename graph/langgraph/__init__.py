"""All that touches LangGraph's own forms and private names, for graphs that people bring."""
