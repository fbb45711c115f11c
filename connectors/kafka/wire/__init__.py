"""How clients are opened, requests written by hand, and every use of aiokafka's private names."""
