"""Reports of a job: one HTML file, the contact sheet, and exports."""
