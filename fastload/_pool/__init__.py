"""Worker processes as the consumer sees them: start, give tasks to, watch and end them.

Runs in: consumer.
Owns: the processes, the consumer's ends of their pipes, and the tasks in flight.
"""
