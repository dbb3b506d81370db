"""What the hardware is: specifications, RTL, golden models and cycles."""
