"""How clients ask for turns: checks, commands, and what is refused."""
