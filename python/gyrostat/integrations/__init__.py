"""Adapters, one file a framework. Each imports its framework; nothing else imports them."""
