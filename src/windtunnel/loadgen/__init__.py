"""A load generator whose only clock is the schedule: a slow server delays no request's intended start."""
