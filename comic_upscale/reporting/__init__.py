"""What is shown of a job to the eye: the report as one HTML file, and the contact sheet."""
