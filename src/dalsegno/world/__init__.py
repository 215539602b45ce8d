"""The only room that touches clock, chance, threads and durable files, so that a rehearsal can bend all of them."""
