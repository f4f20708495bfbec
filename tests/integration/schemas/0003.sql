BEGIN TRANSACTION;
CREATE TABLE config (
	id INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	params TEXT NOT NULL, 
	CONSTRAINT pk_config PRIMARY KEY (id), 
	CONSTRAINT uq_config_digest UNIQUE (digest)
);
INSERT INTO "config" VALUES(1,'2eb7269a698bab979cc8a92e178727d8157ca774be5cd58ff0d871283eb5ee20','{"x":1,"mode":"a"}');
INSERT INTO "config" VALUES(2,'031c145a494d961cdf310840c66748566be2946f7e80b48628143df8e2eb99ee','{"x":40,"mode":"a"}');
INSERT INTO "config" VALUES(3,'7a822ffc0da955192dd8cd96b6aa61641e62c612c5b539d2a70448f7f75a264a','{"x":7,"mode":"a"}');
INSERT INTO "config" VALUES(4,'1bc0b42c7af3b057c93fc8b877fc3fc61ab7078c61a7790d53c794813e0b27f7','{"x":8,"mode":"a"}');
INSERT INTO "config" VALUES(5,'089a6449389aa084b641f258a8abbe022f404b88994fd8cec238d82d6b2d824d','{"x":9,"mode":"a"}');
INSERT INTO "config" VALUES(6,'d0e76bd5c53e743b3821042f3b4c2616a340928020bd160b96034a006a30fc43','{"x":20,"mode":"a"}');
INSERT INTO "config" VALUES(7,'9828eb94525e61909dd9378c3d3098d1dd08d6784685ebd553d9eff0533d3bd3','{"x":21,"mode":"a"}');
INSERT INTO "config" VALUES(8,'0ecb2a972feb5dbb18e98a0810ea5eb6772f2eb3c55c874c17bf185cd28a939e','{"x":22,"mode":"a"}');
INSERT INTO "config" VALUES(9,'6ed273e6c5def033608db049626f40c473465f39bbad0e69963535add25031ac','{"x":23,"mode":"a"}');
CREATE TABLE experiment (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name VARCHAR(255) NOT NULL, 
	description TEXT NOT NULL, 
	root_env_config TEXT NOT NULL, 
	objectives TEXT NOT NULL, 
	tunables TEXT NOT NULL, 
	next_trial_id BIGINT DEFAULT 1 NOT NULL, 
	created_us BIGINT NOT NULL, 
	windtunnel VARCHAR(32) NOT NULL, 
	document TEXT, 
	suggested BIGINT, 
	CONSTRAINT uq_experiment_name UNIQUE (name)
);
INSERT INTO "experiment" VALUES(1,'first','the first one','first.yaml','{"ms": "min"}','{"g": {"cost": 1, "params": {"x": {"type": "int", "default": 1, "range": [0, 100]}, "mode": {"type": "categorical", "default": "a", "values": ["a", "\u00fc"]}}}}',7,1795786547392222,'0.1.0','{"trials": 6}',6);
INSERT INTO "experiment" VALUES(2,'second','','','{"ms": "min"}','{"g": {"cost": 1, "params": {"x": {"type": "int", "default": 1, "range": [0, 100]}, "mode": {"type": "categorical", "default": "a", "values": ["a", "\u00fc"]}}}}',5,1795786547444345,'0.1.0',NULL,0);
CREATE TABLE experiment_merge (
	experiment INTEGER NOT NULL, 
	merged INTEGER NOT NULL, 
	merged_us BIGINT NOT NULL, 
	CONSTRAINT pk_experiment_merge PRIMARY KEY (experiment, merged), 
	CONSTRAINT fk_experiment_merge_experiment FOREIGN KEY(experiment) REFERENCES experiment (id) ON DELETE CASCADE, 
	CONSTRAINT fk_experiment_merge_merged FOREIGN KEY(merged) REFERENCES experiment (id) ON DELETE CASCADE
);
CREATE TABLE metric (
	id INTEGER NOT NULL, 
	name VARCHAR(512) NOT NULL, 
	CONSTRAINT pk_metric PRIMARY KEY (id), 
	CONSTRAINT uq_metric_name UNIQUE (name)
);
INSERT INTO "metric" VALUES(1,'qps');
INSERT INTO "metric" VALUES(2,'state');
CREATE TABLE optimizer_lease (
	experiment INTEGER NOT NULL, 
	owner VARCHAR(255) NOT NULL, 
	lease_until_us BIGINT NOT NULL, 
	CONSTRAINT pk_optimizer_lease PRIMARY KEY (experiment), 
	CONSTRAINT fk_optimizer_lease_experiment FOREIGN KEY(experiment) REFERENCES experiment (id) ON DELETE CASCADE
);
INSERT INTO "optimizer_lease" VALUES(2,'elsewhere/1/1/x',2659786547450931);
CREATE TABLE receipt (
	writer VARCHAR(32) NOT NULL, 
	number BIGINT NOT NULL, 
	CONSTRAINT pk_receipt PRIMARY KEY (writer)
);
CREATE TABLE session (
	owner VARCHAR(255) NOT NULL, 
	experiment INTEGER NOT NULL, 
	started_us BIGINT NOT NULL, 
	facts TEXT NOT NULL, 
	wanting INTEGER, 
	wanting_until_us BIGINT, 
	CONSTRAINT pk_session PRIMARY KEY (owner, experiment), 
	CONSTRAINT fk_session_experiment FOREIGN KEY(experiment) REFERENCES experiment (id) ON DELETE CASCADE
);
INSERT INTO "session" VALUES('here/1/1/y',1,1795786547395702,'{"hostname":"here","cpus":2}',NULL,NULL);
INSERT INTO "session" VALUES('elsewhere/1/1/x',2,1795786547446017,'{"hostname":"elsewhere"}',3,2659786547456343);
CREATE TABLE telemetry (
	experiment INTEGER NOT NULL, 
	trial_id BIGINT NOT NULL, 
	attempt INTEGER NOT NULL, 
	ts_us BIGINT NOT NULL, 
	metric_id INTEGER NOT NULL, 
	number DOUBLE, 
	text TEXT, 
	CONSTRAINT pk_telemetry PRIMARY KEY (experiment, trial_id, attempt, ts_us, metric_id), 
	CONSTRAINT fk_telemetry_experiment FOREIGN KEY(experiment, trial_id) REFERENCES trial (experiment, trial_id) ON DELETE CASCADE, 
	CONSTRAINT fk_telemetry_metric_id FOREIGN KEY(metric_id) REFERENCES metric (id)
)
 WITHOUT ROWID

;
INSERT INTO "telemetry" VALUES(1,2,1,1795786547422742,1,177.0,NULL);
INSERT INTO "telemetry" VALUES(1,2,1,1795786547422755,2,NULL,'warm');
CREATE TABLE trial (
	experiment INTEGER NOT NULL, 
	trial_id BIGINT NOT NULL, 
	config_id INTEGER NOT NULL, 
	status SMALLINT NOT NULL, 
	priority INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	token BIGINT NOT NULL, 
	not_before_us BIGINT NOT NULL, 
	created_us BIGINT NOT NULL, 
	started_us BIGINT, 
	ended_us BIGINT, 
	lease_until_us BIGINT, 
	owner VARCHAR(255), 
	host VARCHAR(255), 
	parameters TEXT, 
	metrics TEXT, 
	score DOUBLE, 
	failure TEXT, 
	failure_kind VARCHAR(16), 
	CONSTRAINT pk_trial PRIMARY KEY (experiment, trial_id), 
	CONSTRAINT ck_trial_status CHECK (status BETWEEN 0 AND 7), 
	CONSTRAINT fk_trial_experiment FOREIGN KEY(experiment) REFERENCES experiment (id) ON DELETE CASCADE, 
	CONSTRAINT fk_trial_config_id FOREIGN KEY(config_id) REFERENCES config (id)
)
 WITHOUT ROWID

;
INSERT INTO "trial" VALUES(1,1,1,4,0,1,1,0,1795786547404009,1795786547409428,1795786547431432,NULL,'here/1/1/y','localhost',NULL,'{"ms":2.0,"name":"a","nan":{"$float":"nan"}}',2.0,NULL,NULL);
INSERT INTO "trial" VALUES(1,2,2,4,0,1,1,0,1795786547404009,1795786547409428,1795786547436289,NULL,'here/1/1/y','localhost',NULL,'{"ms":38.5,"name":"a","nan":{"$float":"nan"}}',38.5,NULL,NULL);
INSERT INTO "trial" VALUES(1,3,3,6,0,1,1,0,1795786547404009,1795786547409428,1795786547438099,NULL,'here/1/1/y','localhost',NULL,NULL,NULL,'run failed: RuntimeError: no','run');
INSERT INTO "trial" VALUES(1,4,3,6,0,1,1,0,1795786547404009,1795786547409428,1795786547439458,NULL,'here/1/1/y','localhost',NULL,NULL,NULL,'run failed: RuntimeError: no','run');
INSERT INTO "trial" VALUES(1,5,4,6,0,1,1,0,1795786547404009,1795786547409428,1795786547440731,NULL,'here/1/1/y','localhost',NULL,NULL,NULL,'run failed: RuntimeError: no','run');
INSERT INTO "trial" VALUES(1,6,5,7,0,1,1,0,1795786547404009,1795786547409428,1795786547441991,NULL,'here/1/1/y','localhost',NULL,NULL,NULL,'timed out','timeout');
INSERT INTO "trial" VALUES(2,1,6,1,0,1,1,0,1795786547460500,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "trial" VALUES(2,2,7,3,0,1,1,0,1795786547460500,1795786547463362,NULL,2659786547463362,'elsewhere/1/1/x',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "trial" VALUES(2,3,8,1,0,0,0,0,1795786547460500,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "trial" VALUES(2,4,9,1,0,0,0,0,1795786547460500,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE trial_attempt (
	experiment INTEGER NOT NULL, 
	trial_id BIGINT NOT NULL, 
	attempt INTEGER NOT NULL, 
	owner VARCHAR(255), 
	host VARCHAR(255), 
	started_us BIGINT, 
	ended_us BIGINT NOT NULL, 
	status SMALLINT NOT NULL, 
	reason TEXT NOT NULL, 
	failure_kind VARCHAR(16), 
	CONSTRAINT pk_trial_attempt PRIMARY KEY (experiment, trial_id, attempt), 
	CONSTRAINT fk_trial_attempt_experiment FOREIGN KEY(experiment, trial_id) REFERENCES trial (experiment, trial_id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
INSERT INTO "trial_attempt" VALUES(2,1,1,'elsewhere/1/1/x','away',1795786547463362,1795786547465661,6,'moved','host');
CREATE TABLE windtunnel_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT windtunnel_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO "windtunnel_schema" VALUES('0003');
CREATE INDEX ix_trial_queue ON trial (experiment, priority DESC, trial_id, status) WHERE status = 1;
CREATE INDEX ix_trial_host ON trial (experiment, config_id, host) WHERE host IS NOT NULL;
CREATE INDEX ix_trial_lease ON trial (experiment, lease_until_us) WHERE status = 3;
CREATE INDEX ix_trial_outcome ON trial (experiment, status, config_id, score) WHERE status >= 4;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('experiment',2);
COMMIT;
