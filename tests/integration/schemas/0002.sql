BEGIN TRANSACTION;
CREATE TABLE config (
	id INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	params TEXT NOT NULL, 
	CONSTRAINT pk_config PRIMARY KEY (id), 
	CONSTRAINT uq_config_digest UNIQUE (digest)
);
INSERT INTO "config" VALUES(1,'70d349ad1d47cf965055ab2ae001711cabb08a0d9da9bcabb6c33574e78c4e18','{"x":4,"mode":"a"}');
INSERT INTO "config" VALUES(2,'c8e1a946fb499a1ac674263453a838888f0c971ed3d697a9fe1cf772f1b53af4','{"x":77,"mode":"a"}');
INSERT INTO "config" VALUES(3,'95faf751f38d18aaad9e74f81c5940e753303dee3b91d7257f6c9d3c26380a68','{"x":66,"mode":"a"}');
INSERT INTO "config" VALUES(4,'6c895d3ca8c136377e33e7ca16a58226c20f3c9afe6c151e9c478feaad59f6ff','{"x":99,"mode":"a"}');
INSERT INTO "config" VALUES(5,'7ba4d6af439d2477e3a93e03c967b0cff7bcb22919383680b65c2913791dd260','{"x":57,"mode":"a"}');
INSERT INTO "config" VALUES(6,'604182893bf39273acdf8c8212f1d11cce050e59f25a9b796f0b4e9175a93366','{"x":0,"mode":"a"}');
INSERT INTO "config" VALUES(7,'2eb7269a698bab979cc8a92e178727d8157ca774be5cd58ff0d871283eb5ee20','{"x":1,"mode":"a"}');
INSERT INTO "config" VALUES(8,'28cabfe8dc307450afc29b486de524cddc2b1b3c0fd091f1f86e05788e7af9f5','{"x":2,"mode":"a"}');
INSERT INTO "config" VALUES(9,'fc8152137b2793dbe7232b1b70f6daa224644a59aad806ef062c6398cc5fc3ef','{"x":3,"mode":"a"}');
CREATE TABLE experiment (
	id INTEGER NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	description TEXT NOT NULL, 
	root_env_config TEXT NOT NULL, 
	objectives TEXT NOT NULL, 
	tunables TEXT NOT NULL, 
	next_trial_id BIGINT DEFAULT 1 NOT NULL, 
	created_us BIGINT NOT NULL, 
	windtunnel VARCHAR(32) NOT NULL, 
	CONSTRAINT pk_experiment PRIMARY KEY (id), 
	CONSTRAINT uq_experiment_name UNIQUE (name)
);
INSERT INTO "experiment" VALUES(1,'first','','','{"ms": "min"}','{"g": {"cost": 1, "params": {"x": {"type": "int", "default": 4, "range": [0, 100]}, "mode": {"type": "categorical", "default": "a", "values": ["a", "b"]}}}}',7,1795453437745291,'0.1.0');
INSERT INTO "experiment" VALUES(2,'second','half done','','{"ms": "min"}','{"g": {"cost": 1, "params": {"x": {"type": "int", "default": 4, "range": [0, 100]}, "mode": {"type": "categorical", "default": "a", "values": ["a", "b"]}}}}',5,1795453437771301,'0.1.0');
CREATE TABLE experiment_merge (
	experiment INTEGER NOT NULL, 
	merged INTEGER NOT NULL, 
	merged_us BIGINT NOT NULL, 
	CONSTRAINT pk_experiment_merge PRIMARY KEY (experiment, merged), 
	CONSTRAINT fk_experiment_merge_experiment FOREIGN KEY(experiment) REFERENCES experiment (id) ON DELETE CASCADE, 
	CONSTRAINT fk_experiment_merge_merged FOREIGN KEY(merged) REFERENCES experiment (id) ON DELETE CASCADE
);
INSERT INTO "experiment_merge" VALUES(2,1,1795453437773320);
CREATE TABLE metric (
	id INTEGER NOT NULL, 
	name VARCHAR(512) NOT NULL, 
	CONSTRAINT pk_metric PRIMARY KEY (id), 
	CONSTRAINT uq_metric_name UNIQUE (name)
);
INSERT INTO "metric" VALUES(1,'qps');
INSERT INTO "metric" VALUES(2,'note');
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
	CONSTRAINT pk_session PRIMARY KEY (owner, experiment), 
	CONSTRAINT fk_session_experiment FOREIGN KEY(experiment) REFERENCES experiment (id) ON DELETE CASCADE
);
INSERT INTO "session" VALUES('here/1/1/y',1,1795453437747045,'{"machine":"m1","versions":{"windtunnel":"0.2"}}');
INSERT INTO "session" VALUES('elsewhere/1/1/x',2,1795453437774384,'{"machine":"m2"}');
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
INSERT INTO "telemetry" VALUES(1,1,1,1795453437755053,1,104.0,NULL);
INSERT INTO "telemetry" VALUES(1,1,1,1795453437758722,2,NULL,'warm');
INSERT INTO "telemetry" VALUES(1,2,1,1795453437761004,1,177.0,NULL);
INSERT INTO "telemetry" VALUES(1,2,1,1795453437762103,2,NULL,'warm');
INSERT INTO "telemetry" VALUES(1,3,1,1795453437763249,1,166.0,NULL);
INSERT INTO "telemetry" VALUES(1,3,1,1795453437764293,2,NULL,'warm');
INSERT INTO "telemetry" VALUES(2,1,1,1795453437778152,1,1.0,NULL);
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
	CONSTRAINT pk_trial PRIMARY KEY (experiment, trial_id), 
	CONSTRAINT ck_trial_status CHECK (status BETWEEN 0 AND 7), 
	CONSTRAINT fk_trial_experiment FOREIGN KEY(experiment) REFERENCES experiment (id) ON DELETE CASCADE, 
	CONSTRAINT fk_trial_config_id FOREIGN KEY(config_id) REFERENCES config (id)
)
 WITHOUT ROWID

;
INSERT INTO "trial" VALUES(1,1,1,4,0,1,1,1795453437749413,1795453437749413,1795453437751777,1795453437765409,NULL,'here/1/1/y','localhost',NULL,'{"ms":2.0,"name":"a","nan":{"$float":"nan"}}',2.0,NULL);
INSERT INTO "trial" VALUES(1,2,2,4,0,1,1,1795453437749413,1795453437749413,1795453437751777,1795453437767069,NULL,'here/1/1/y','localhost',NULL,'{"ms":38.5,"name":"a","nan":{"$float":"nan"}}',38.5,NULL);
INSERT INTO "trial" VALUES(1,3,3,6,0,1,1,1795453437749413,1795453437749413,1795453437751777,1795453437767939,NULL,'here/1/1/y','localhost',NULL,NULL,NULL,'run failed: RuntimeError: no');
INSERT INTO "trial" VALUES(1,4,3,6,0,1,1,1795453437749413,1795453437749413,1795453437751777,1795453437768731,NULL,'here/1/1/y','localhost',NULL,NULL,NULL,'run failed: RuntimeError: no');
INSERT INTO "trial" VALUES(1,5,4,6,0,1,1,1795453437749413,1795453437749413,1795453437751777,1795453437769457,NULL,'here/1/1/y','localhost',NULL,NULL,NULL,'run failed: RuntimeError: no');
INSERT INTO "trial" VALUES(1,6,5,7,0,1,1,1795453437749413,1795453437749413,1795453437751777,1795453437770164,NULL,'here/1/1/y','localhost',NULL,NULL,NULL,'timed out');
INSERT INTO "trial" VALUES(2,1,6,1,0,1,1,1795453437775736,1795453437775736,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "trial" VALUES(2,2,7,3,0,1,1,1795453437775736,1795453437775736,1795453437777135,NULL,2659453437777135,'elsewhere/1/1/x',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "trial" VALUES(2,3,8,1,0,0,0,1795453437775736,1795453437775736,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "trial" VALUES(2,4,9,1,0,0,0,1795453437775736,1795453437775736,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
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
	CONSTRAINT pk_trial_attempt PRIMARY KEY (experiment, trial_id, attempt), 
	CONSTRAINT fk_trial_attempt_experiment FOREIGN KEY(experiment, trial_id) REFERENCES trial (experiment, trial_id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
INSERT INTO "trial_attempt" VALUES(2,1,1,'elsewhere/1/1/x',NULL,1795453437777135,1795453437779360,5,'released');
CREATE TABLE windtunnel_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT windtunnel_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO "windtunnel_schema" VALUES('0002');
CREATE INDEX ix_trial_queue ON trial (experiment, priority DESC, trial_id, status) WHERE status = 1;
CREATE INDEX ix_trial_outcome ON trial (experiment, status, config_id, score) WHERE status >= 4;
CREATE INDEX ix_trial_lease ON trial (experiment, lease_until_us) WHERE status = 3;
COMMIT;
