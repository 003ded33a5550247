"""The Model Context Protocol: servers whose tools an agent uses, and modelworks' own tools served to others.

The protocol itself is the official SDK's (extra `agents`); what is here decides what of it is believed.
"""
