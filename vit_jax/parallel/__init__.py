"""Devices and hosts: a step is split over them, and the processes of a job agree and stop."""
