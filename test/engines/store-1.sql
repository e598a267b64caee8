-- A store as version 1 of the schema wrote it (the program as of 2026-11-23, through its own interface), dumped by sqlite3.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES('epoch','m7fmKfe_8zh1v6kg');
CREATE TABLE totals (name TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO totals VALUES('accepted',10);
INSERT INTO totals VALUES('acked',1);
INSERT INTO totals VALUES('dead',1);
INSERT INTO totals VALUES('evicted',0);
INSERT INTO totals VALUES('expired',0);
INSERT INTO totals VALUES('replaced',0);
INSERT INTO totals VALUES('unsettled',8);
CREATE TABLE mailboxes (
    id INTEGER PRIMARY KEY, user TEXT NOT NULL UNIQUE, head INTEGER NOT NULL, count INTEGER NOT NULL, bytes INTEGER NOT NULL, forgotten INTEGER NOT NULL
  ) STRICT;
INSERT INTO mailboxes VALUES(1,'bob',8,6,598,0);
INSERT INTO mailboxes VALUES(2,'eve',2,2,184,0);
CREATE TABLE events (
    id INTEGER PRIMARY KEY, recipients INTEGER NOT NULL, unsettled INTEGER NOT NULL, dead INTEGER NOT NULL, checksum INTEGER NOT NULL, event TEXT NOT NULL
  ) STRICT;
INSERT INTO events VALUES(1,2,2,0,1446940317,'{"specversion":"1.0","id":"plain","source":"/users/alice","type":"t","data":"text of plain"}');
INSERT INTO events VALUES(3,1,0,1,899132617,'{"specversion":"1.0","id":"dead","source":"/users/alice","type":"t","data":"text of dead"}');
INSERT INTO events VALUES(4,1,1,0,519564474,'{"specversion":"1.0","id":"delayed","source":"/users/alice","type":"t","data":"text of delayed"}');
INSERT INTO events VALUES(5,1,1,0,327696023,'{"specversion":"1.0","id":"of-session","source":"/users/alice","type":"t","data":"text of of-session"}');
INSERT INTO events VALUES(6,1,1,0,3189257905,'{"specversion":"1.0","id":"delayed-of-session","source":"/users/alice","type":"t","data":"text of delayed-of-session"}');
INSERT INTO events VALUES(7,1,1,0,3073303510,'{"specversion":"1.0","id":"of-other","source":"/users/alice","type":"t","data":"text of of-other"}');
INSERT INTO events VALUES(8,1,1,0,125438663,'{"specversion":"1.0","id":"topic","source":"/users/alice","type":"t","data":"text of topic"}');
INSERT INTO events VALUES(9,1,1,0,2385466211,'{"specversion":"1.0","id":"keyed","source":"/users/alice","type":"t","data":"text of keyed"}');
CREATE TABLE deliveries (
    message TEXT NOT NULL, mailbox INTEGER NOT NULL, seq INTEGER, event INTEGER, source TEXT NOT NULL, session TEXT, topic TEXT, bytes INTEGER NOT NULL,
    attempts INTEGER NOT NULL, expires_ms INTEGER NOT NULL, due_ms INTEGER, ending TEXT, ended_ms INTEGER, reason TEXT, PRIMARY KEY (message, mailbox)
  ) STRICT, WITHOUT ROWID;
INSERT INTO deliveries VALUES('acked',1,2,NULL,'/users/alice',NULL,NULL,92,1,4929465600000,1767312000000,'acked',1767225600000,NULL);
INSERT INTO deliveries VALUES('dead',1,3,3,'/users/alice',NULL,NULL,90,1,4929465600000,1767830400000,'dead',1767225600000,'no');
INSERT INTO deliveries VALUES('delayed',1,NULL,4,'/users/alice',NULL,NULL,96,2,4929465600000,1767313800000,NULL,NULL,NULL);
INSERT INTO deliveries VALUES('delayed-of-session',1,NULL,6,'/users/alice','tab-1',NULL,118,2,4929465600000,1767313800000,NULL,NULL,NULL);
INSERT INTO deliveries VALUES('keyed',2,2,9,'/users/alice',NULL,NULL,92,1,4929465600000,4929465600000,NULL,NULL,NULL);
INSERT INTO deliveries VALUES('of-other',1,7,7,'/users/alice','tab-2',NULL,98,1,4929465600000,4929465600000,NULL,NULL,NULL);
INSERT INTO deliveries VALUES('of-session',1,5,5,'/users/alice','tab-1',NULL,102,1,4929465600000,4929465600000,NULL,NULL,NULL);
INSERT INTO deliveries VALUES('plain',1,1,1,'/users/alice',NULL,NULL,92,1,4929465600000,4929465600000,NULL,NULL,NULL);
INSERT INTO deliveries VALUES('plain',2,1,1,'/users/alice',NULL,NULL,92,1,4929465600000,4929465600000,NULL,NULL,NULL);
INSERT INTO deliveries VALUES('topic',1,8,8,'/users/alice',NULL,'t',92,1,4929465600000,4929465600000,NULL,NULL,NULL);
CREATE TABLE idempotency (
    source TEXT NOT NULL, key TEXT NOT NULL, hash TEXT NOT NULL, accepted TEXT NOT NULL, due_ms INTEGER NOT NULL, PRIMARY KEY (source, key)
  ) STRICT, WITHOUT ROWID;
INSERT INTO idempotency VALUES('/users/alice','k','h','{"id":"keyed","time":"2026-01-01T00:00:00.000Z","ttl":3162240000,"recipients":["eve"]}',1767312000000);
CREATE INDEX deliveries_mail ON deliveries (mailbox, seq) WHERE ending IS NULL;
CREATE INDEX deliveries_gaps ON deliveries (mailbox, seq, ending, session) WHERE ending IS NOT NULL AND ending <> 'acked';
CREATE INDEX deliveries_topic ON deliveries (mailbox, topic, source) WHERE topic IS NOT NULL AND ending IS NULL;
CREATE INDEX deliveries_due ON deliveries (due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX idempotency_due ON idempotency (due_ms);
COMMIT;
PRAGMA application_id = 1212239428;
PRAGMA user_version = 1;
