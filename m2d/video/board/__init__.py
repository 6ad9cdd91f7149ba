"""The storyboard: one HTML page that shows films, scene by scene, and how they were made."""
