"""Records: what users give to be scored, read from files or parsed from objects, and written with their scores."""

from rmruntime.records.requests import Conversation, Message, Request, parse_record

__all__ = ["Conversation", "Message", "Request", "parse_record"]
