"""Programs beside the main one."""
