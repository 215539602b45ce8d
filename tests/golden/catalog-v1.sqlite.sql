CREATE TABLE catalog (
	version INTEGER NOT NULL
);
CREATE TABLE copies (
	dump_id BLOB NOT NULL,
	target TEXT NOT NULL,
	number INTEGER NOT NULL,
	part INTEGER NOT NULL,
	parts INTEGER NOT NULL,
	needed INTEGER NOT NULL,
	medium TEXT NOT NULL,
	place TEXT NOT NULL,
	size_bytes BIGINT NOT NULL,
	written_at_ns BIGINT NOT NULL,
	checked_at_ns BIGINT NOT NULL,
	verdict TEXT NOT NULL,
	PRIMARY KEY (dump_id, target, number, part)
);
CREATE INDEX copies_by_medium ON copies (medium);
CREATE TABLE drills (
	id INTEGER NOT NULL,
	volume_id BLOB NOT NULL,
	volume_name TEXT NOT NULL,
	set_name TEXT NOT NULL,
	dump_id BLOB NOT NULL,
	kind TEXT NOT NULL,
	started_ns BIGINT NOT NULL,
	ended_ns BIGINT NOT NULL,
	file_count BIGINT NOT NULL,
	total_bytes BIGINT NOT NULL,
	verdict TEXT NOT NULL,
	findings TEXT NOT NULL,
	media TEXT NOT NULL,
	PRIMARY KEY (id)
);
CREATE INDEX drills_by_volume ON drills (volume_id, ended_ns);
CREATE TABLE dumps (
	dump_id BLOB NOT NULL,
	volume_id BLOB NOT NULL,
	volume_name TEXT NOT NULL,
	level INTEGER NOT NULL,
	revision BLOB NOT NULL,
	base_dump BLOB NOT NULL,
	base_revisions BLOB NOT NULL,
	clone_name TEXT NOT NULL,
	cloned_at_ns BIGINT NOT NULL,
	taken_at_ns BIGINT NOT NULL,
	received_at_ns BIGINT NOT NULL,
	size_bytes BIGINT NOT NULL,
	digest BLOB NOT NULL,
	raw_bytes BIGINT NOT NULL,
	entry_count BIGINT NOT NULL,
	host TEXT NOT NULL,
	set_name TEXT NOT NULL,
	verdict TEXT NOT NULL,
	verified_at_ns BIGINT NOT NULL,
	PRIMARY KEY (dump_id)
);
CREATE INDEX dumps_by_id_and_time ON dumps (volume_id, cloned_at_ns);
CREATE INDEX dumps_by_name_and_time ON dumps (volume_name, cloned_at_ns);
CREATE INDEX dumps_by_revision ON dumps (revision);
CREATE INDEX dumps_by_set ON dumps (set_name, cloned_at_ns);
CREATE TABLE jobs (
	run_id INTEGER NOT NULL,
	set_name TEXT NOT NULL,
	volume_name TEXT NOT NULL,
	volume_id BLOB NOT NULL,
	step TEXT NOT NULL,
	data TEXT NOT NULL,
	updated_ns BIGINT NOT NULL,
	state TEXT NOT NULL,
	PRIMARY KEY (run_id, set_name, volume_name)
);
CREATE INDEX jobs_by_state ON jobs (state);
CREATE TABLE media (
	label TEXT NOT NULL,
	target TEXT NOT NULL,
	kind TEXT NOT NULL,
	id BLOB NOT NULL,
	capacity_bytes BIGINT NOT NULL,
	used_bytes BIGINT NOT NULL,
	first_used_ns BIGINT NOT NULL,
	last_seen_ns BIGINT NOT NULL,
	state TEXT NOT NULL,
	PRIMARY KEY (label)
);
CREATE TABLE runs (
	id INTEGER NOT NULL,
	started_ns BIGINT NOT NULL,
	ended_ns BIGINT NOT NULL,
	report TEXT NOT NULL,
	PRIMARY KEY (id)
);
CREATE TABLE earlier (
	dump_id BLOB NOT NULL,
	revision BLOB NOT NULL,
	clone_name TEXT NOT NULL,
	cloned_at_ns BIGINT NOT NULL,
	PRIMARY KEY (dump_id, revision),
	FOREIGN KEY(dump_id) REFERENCES dumps (dump_id) ON DELETE CASCADE
);
CREATE INDEX earlier_by_revision ON earlier (revision);
