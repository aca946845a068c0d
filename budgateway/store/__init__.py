"""What gateways on several hosts share, in Redis: one client a process, with deadlines of milliseconds and a breaker."""
