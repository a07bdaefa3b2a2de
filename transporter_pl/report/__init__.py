"""What a user looks at: videos, filmstrips, calibration plots and the page that holds them."""
