"""What any loader must do: run against fastload's ways of loading and against torch's own."""
