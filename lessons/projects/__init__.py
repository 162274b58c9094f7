"""The projects of the course: larger programs than a lab, each a package with a README."""
