"""What each cloud is asked before a machine is started."""
