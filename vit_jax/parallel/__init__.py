"""Devices and hosts: how a step is split over them, and how the processes of a job agree."""
