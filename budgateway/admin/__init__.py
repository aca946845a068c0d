"""The admin server: answers the gateway's own endpoints. Workers reach it like one more upstream."""
