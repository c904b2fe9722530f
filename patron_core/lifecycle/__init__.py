"""What happens to a run over time: load -> observe -> decide -> apply, once a tick, by one supervisor."""
