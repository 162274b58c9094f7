"""The pages of the admin API: HTML that the server renders, from the same declared changes and views as the JSON."""
