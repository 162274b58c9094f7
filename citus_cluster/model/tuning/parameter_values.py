# ruff: noqa: E501
"""Units, ranges and words of PostgreSQL's and Citus' parameters: facts read from servers, no decisions.

Written by `make parameters` (tools/update_parameters.py), never by hand, from pg_settings with citus and
pg_stat_statements loaded. Images: postgres:14, citusdata/citus:13.2.2, citusdata/citus:14.0.1.
Each line has the PostgreSQL majors and the name; then integer or real with the unit, the least and the greatest value
in that unit; or enum with its words.
"""

TABLE = """
14,17,18 archive_mode enum always,on,off,true,false,yes,no,1,0
14,17,18 archive_timeout integer s 0 1073741823
14,17,18 authentication_timeout integer s 1 600
14,17,18 autovacuum_analyze_scale_factor real - 0 100
14,17,18 autovacuum_analyze_threshold integer - 0 2147483647
14,17,18 autovacuum_freeze_max_age integer - 100000 2000000000
14,17,18 autovacuum_max_workers integer - 1 262143
14,17,18 autovacuum_multixact_freeze_max_age integer - 10000 2000000000
14,17,18 autovacuum_naptime integer s 1 2147483
14,17,18 autovacuum_vacuum_cost_delay real ms -1 100
14,17,18 autovacuum_vacuum_cost_limit integer - -1 10000
14,17,18 autovacuum_vacuum_insert_scale_factor real - 0 100
14,17,18 autovacuum_vacuum_insert_threshold integer - -1 2147483647
18 autovacuum_vacuum_max_threshold integer - -1 2147483647
14,17,18 autovacuum_vacuum_scale_factor real - 0 100
14,17,18 autovacuum_vacuum_threshold integer - 0 2147483647
14,17,18 autovacuum_work_mem integer kB -1 2147483647
18 autovacuum_worker_slots integer - 1 262143
14,17,18 backend_flush_after integer 8kB 0 256
14,17,18 backslash_quote enum safe_encoding,on,off,true,false,yes,no,1,0
14,17,18 bgwriter_delay integer ms 10 10000
14,17,18 bgwriter_flush_after integer 8kB 0 256
14,17,18 bgwriter_lru_maxpages integer - 0 1073741823
14,17,18 bgwriter_lru_multiplier real - 0 10
14,17,18 bytea_output enum escape,hex
14,17,18 checkpoint_completion_target real - 0 1
14,17,18 checkpoint_flush_after integer 8kB 0 256
14,17,18 checkpoint_timeout integer s 30 86400
14,17,18 checkpoint_warning integer s 0 2147483647
17,18 citus.background_task_queue_interval integer ms -1 604800000
17,18 citus.coordinator_aggregation_strategy enum disabled,row-gather
17,18 citus.count_distinct_error_rate real - 0 1
17,18 citus.cpu_priority integer - -20 19
17,18 citus.cpu_priority_for_logical_replication_senders enum inherit,-20,-19,-18,-17,-16,-15,-14,-13,-12,-11,-10,-9,-8,-7,-6,-5,-4,-3,-2,-1,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19
17,18 citus.defer_shard_delete_interval integer ms -1 604800000
17,18 citus.desired_percent_disk_available_after_move real - 0 100
17,18 citus.distributed_deadlock_detection_factor real - -1 1000
17,18 citus.explain_analyze_sort_method enum execution-time,taskId
17,18 citus.limit_clause_row_fetch_count integer - -1 2147483647
17,18 citus.local_shared_pool_size integer - -1 2147483647
17,18 citus.local_table_join_policy enum never,prefer-local,prefer-distributed,auto
17,18 citus.max_adaptive_executor_pool_size integer - 1 2147483647
17,18 citus.max_background_task_executors integer - 1 1000
17,18 citus.max_background_task_executors_per_node integer - 1 128
17,18 citus.max_cached_connection_lifetime integer ms -1 2147483647
17,18 citus.max_cached_conns_per_worker integer - 0 2147483647
17,18 citus.max_client_connections integer - -1 2147483647
17,18 citus.max_high_priority_background_processes integer - 0 10000
17,18 citus.max_intermediate_result_size integer kB -1 2147483647
17,18 citus.max_matview_size_to_auto_recreate integer MB -1 2147483647
17,18 citus.max_shared_pool_size integer - -1 2147483647
17,18 citus.max_worker_nodes_tracked integer - 1024 2147483647
17,18 citus.multi_shard_modify_mode enum parallel,sequential
17,18 citus.multi_task_query_log_level enum off,debug5,debug4,debug3,debug2,debug1,log,notice,warning,error,debug
17,18 citus.node_connection_timeout integer ms 10 3600000
17,18 citus.propagate_set_commands enum none,local
17,18 citus.recover_2pc_interval integer ms -1 604800000
17,18 citus.remote_task_check_interval integer ms 1 2147483647
17,18 citus.shard_count integer - 1 64000
17,18 citus.shard_replication_factor integer - 1 100
17,18 citus.stat_statements_track enum none,all
17,18 citus.stat_tenants_limit integer - 1 10000
17,18 citus.stat_tenants_log_level enum off,debug5,debug4,debug3,debug2,debug1,log,notice,warning,error,debug
17,18 citus.stat_tenants_period integer - 1 86400
17,18 citus.stat_tenants_track enum none,all
17,18 citus.stat_tenants_untracked_sample_rate real - 0 1
17,18 citus.task_assignment_policy enum greedy,first-replica,round-robin
17,18 citus.task_executor_type enum adaptive,real-time,task-tracker
17,18 citus.use_secondary_nodes enum never,always
17,18 citus.values_materialization_threshold integer - -1 2147483647
17,18 citus.worker_min_messages enum off,debug5,debug4,debug3,debug2,debug1,log,notice,warning,error,debug
14,17,18 client_connection_check_interval integer ms 0 2147483647
14,17,18 client_min_messages enum debug5,debug4,debug3,debug2,debug1,log,notice,warning,error,debug
17,18 columnar.chunk_group_row_limit integer - 1000 100000
17,18 columnar.compression enum none,pglz,lz4,zstd
17,18 columnar.compression_level integer - 1 19
17,18 columnar.planner_debug_level enum debug5,debug4,debug3,debug2,debug1,info,notice,warning,log,debug
17,18 columnar.stripe_row_limit integer - 1000 10000000
14,17,18 commit_delay integer - 0 100000
14,17,18 commit_siblings integer - 0 1000
17,18 commit_timestamp_buffers integer 8kB 0 131072
17 composite_type_mismatch enum error,warn,disabled
14,17,18 compute_query_id enum auto,regress,on,off,true,false,yes,no,1,0
14,17,18 constraint_exclusion enum partition,on,off,true,false,yes,no,1,0
14,17,18 cpu_index_tuple_cost real - 0 1.79769e+308
14,17,18 cpu_operator_cost real - 0 1.79769e+308
14,17,18 cpu_tuple_cost real - 0 1.79769e+308
14,17,18 cursor_tuple_fraction real - 0 1
14,17,18 deadlock_timeout integer ms 1 2147483647
14,17,18 debug_discard_caches integer - 0 0
17,18 debug_logical_replication_streaming enum buffered,immediate
17,18 debug_parallel_query enum off,on,regress,true,false,yes,no,1,0
14,17,18 default_statistics_target integer - 1 10000
14 default_toast_compression enum pglz
17,18 default_toast_compression enum pglz,lz4
14,17,18 default_transaction_isolation enum serializable,repeatable read,read committed,read uncommitted
14,17,18 dynamic_shared_memory_type enum posix,sysv,mmap
14,17,18 effective_cache_size integer 8kB 1 2147483647
14,17,18 effective_io_concurrency integer - 0 1000
14,17,18 extra_float_digits integer - -15 3
18 file_copy_method enum copy,clone
17,18 file_extend_method enum posix_fallocate,write_zeros
14 force_parallel_mode enum off,on,regress,true,false,yes,no,1,0
14,17,18 from_collapse_limit integer - 1 2147483647
14,17,18 geqo_effort integer - 1 10
14,17,18 geqo_generations integer - 0 2147483647
14,17,18 geqo_pool_size integer - 0 2147483647
14,17,18 geqo_seed real - 0 1
14,17,18 geqo_selection_bias real - 1.5 2
14,17,18 geqo_threshold integer - 2 2147483647
14,17,18 gin_fuzzy_search_limit integer - 0 2147483647
14,17,18 gin_pending_list_limit integer kB 64 2147483647
14,17,18 hash_mem_multiplier real - 1 1000
14,17,18 huge_page_size integer kB 0 2147483647
14,17,18 huge_pages enum off,on,try,true,false,yes,no,1,0
17,18 icu_validation_level enum disabled,debug5,debug4,debug3,debug2,debug1,log,notice,warning,error,debug
14,17,18 idle_in_transaction_session_timeout integer ms 0 2147483647
18 idle_replication_slot_timeout integer s 0 2147483647
14,17,18 idle_session_timeout integer ms 0 2147483647
14,17,18 intervalstyle enum postgres,postgres_verbose,sql_standard,iso_8601
18 io_combine_limit integer 8kB 1 128
17 io_combine_limit integer 8kB 1 32
18 io_max_combine_limit integer 8kB 1 128
18 io_max_concurrency integer - -1 1024
18 io_method enum sync,worker,io_uring
18 io_workers integer - 1 32
14,17,18 jit_above_cost real - -1 1.79769e+308
14,17,18 jit_inline_above_cost real - -1 1.79769e+308
14,17,18 jit_optimize_above_cost real - -1 1.79769e+308
14,17,18 join_collapse_limit integer - 1 2147483647
14,17,18 lock_timeout integer ms 0 2147483647
14,17,18 log_autovacuum_min_duration integer ms -1 2147483647
14,17,18 log_error_verbosity enum terse,default,verbose
14,17,18 log_file_mode integer - 0 511
14,17,18 log_min_duration_sample integer ms -1 2147483647
14,17,18 log_min_duration_statement integer ms -1 2147483647
14,17,18 log_min_error_statement enum debug5,debug4,debug3,debug2,debug1,info,notice,warning,error,log,fatal,panic,debug
14,17,18 log_min_messages enum debug5,debug4,debug3,debug2,debug1,info,notice,warning,error,log,fatal,panic,debug
14,17,18 log_parameter_max_length integer B -1 1073741823
14,17,18 log_parameter_max_length_on_error integer B -1 1073741823
14,17,18 log_rotation_age integer min 0 35791394
14,17 log_rotation_size integer kB 0 2097151
18 log_rotation_size integer kB 0 2147483647
17,18 log_startup_progress_interval integer ms 0 2147483647
14,17,18 log_statement enum none,ddl,mod,all
14,17,18 log_statement_sample_rate real - 0 1
14,17,18 log_temp_files integer kB -1 2147483647
14,17,18 log_transaction_sample_rate real - 0 1
14,17,18 logical_decoding_work_mem integer kB 64 2147483647
14,17,18 maintenance_io_concurrency integer - 0 1000
14 maintenance_work_mem integer kB 1024 2147483647
17,18 maintenance_work_mem integer kB 64 2147483647
18 max_active_replication_origins integer - 0 262143
14,17,18 max_connections integer - 1 262143
14,17,18 max_files_per_process integer - 64 2147483647
14,17,18 max_locks_per_transaction integer - 10 2147483647
14,17,18 max_logical_replication_workers integer - 0 262143
17,18 max_notify_queue_pages integer - 64 2147483647
17,18 max_parallel_apply_workers_per_subscription integer - 0 1024
14,17,18 max_parallel_maintenance_workers integer - 0 1024
14,17,18 max_parallel_workers integer - 0 1024
14,17,18 max_parallel_workers_per_gather integer - 0 1024
14,17,18 max_pred_locks_per_page integer - 0 2147483647
14,17,18 max_pred_locks_per_relation integer - -2147483648 2147483647
14,17,18 max_pred_locks_per_transaction integer - 10 2147483647
14,17,18 max_prepared_transactions integer - 0 262143
14,17,18 max_replication_slots integer - 0 262143
14,17,18 max_slot_wal_keep_size integer MB -1 2147483647
14,17,18 max_stack_depth integer kB 100 2147483647
14,17,18 max_standby_archive_delay integer ms -1 2147483647
14,17,18 max_standby_streaming_delay integer ms -1 2147483647
14,17,18 max_sync_workers_per_subscription integer - 0 262143
14,17,18 max_wal_senders integer - 0 262143
14,17,18 max_wal_size integer MB 2 2147483647
14,17,18 max_worker_processes integer - 0 262143
14,17,18 min_dynamic_shared_memory integer MB 0 2147483647
14,17,18 min_parallel_index_scan_size integer 8kB 0 715827882
14,17,18 min_parallel_table_scan_size integer 8kB 0 715827882
14,17,18 min_wal_size integer MB 2 2147483647
17,18 multixact_member_buffers integer 8kB 16 131072
17,18 multixact_offset_buffers integer 8kB 16 131072
17,18 notify_buffers integer 8kB 16 131072
14 old_snapshot_threshold integer min -1 86400
14,17,18 parallel_setup_cost real - 0 1.79769e+308
14,17,18 parallel_tuple_cost real - 0 1.79769e+308
14,17,18 password_encryption enum md5,scram-sha-256
14,17,18 pg_stat_statements.max integer - 100 1073741823
14,17,18 pg_stat_statements.track enum none,top,all
14,17,18 plan_cache_mode enum auto,force_generic_plan,force_custom_plan
14,17,18 port integer - 1 65535
14,17,18 post_auth_delay integer s 0 2147
14,17,18 pre_auth_delay integer s 0 60
14,17,18 random_page_cost real - 0 1.79769e+308
14,17,18 recovery_init_sync_method enum fsync,syncfs
14,17,18 recovery_min_apply_delay integer ms 0 2147483647
17,18 recovery_prefetch enum off,on,try,true,false,yes,no,1,0
14,17,18 recovery_target_action enum pause,promote,shutdown
17,18 recursive_worktable_factor real - 0.001 1e+06
17,18 reserved_connections integer - 0 262143
17,18 scram_iterations integer - 1 2147483647
14,17,18 seq_page_cost real - 0 1.79769e+308
17,18 serializable_buffers integer 8kB 16 131072
14,17,18 session_replication_role enum origin,replica,local
14,17,18 shared_buffers integer 8kB 16 1073741823
14,17,18 shared_memory_type enum sysv,mmap
14,17,18 ssl_max_protocol_version enum ,TLSv1,TLSv1.1,TLSv1.2,TLSv1.3
14,17,18 ssl_min_protocol_version enum TLSv1,TLSv1.1,TLSv1.2,TLSv1.3
14,17,18 statement_timeout integer ms 0 2147483647
17,18 stats_fetch_consistency enum none,cache,snapshot
17,18 subtransaction_buffers integer 8kB 0 131072
14,17,18 superuser_reserved_connections integer - 0 262143
14,17,18 synchronous_commit enum local,remote_write,remote_apply,on,off,true,false,yes,no,1,0
14,17,18 syslog_facility enum local0,local1,local2,local3,local4,local5,local6,local7
14,17,18 tcp_keepalives_count integer - 0 2147483647
14,17,18 tcp_keepalives_idle integer s 0 2147483647
14,17,18 tcp_keepalives_interval integer s 0 2147483647
14,17,18 tcp_user_timeout integer ms 0 2147483647
14,17,18 temp_buffers integer 8kB 100 1073741823
14,17,18 temp_file_limit integer kB -1 2147483647
14 trace_recovery_messages enum debug5,debug4,debug3,debug2,debug1,log,notice,warning,error,debug
14,17,18 track_activity_query_size integer B 100 1048576
14,17,18 track_functions enum none,pl,all
17,18 transaction_buffers integer 8kB 0 131072
14,17,18 transaction_isolation enum serializable,repeatable read,read committed,read uncommitted
17,18 transaction_timeout integer ms 0 2147483647
14,17,18 unix_socket_permissions integer - 0 511
17,18 vacuum_buffer_usage_limit integer kB 0 16777216
14,17,18 vacuum_cost_delay real ms 0 100
14,17,18 vacuum_cost_limit integer - 1 10000
14,17,18 vacuum_cost_page_dirty integer - 0 10000
14,17,18 vacuum_cost_page_hit integer - 0 10000
14,17,18 vacuum_cost_page_miss integer - 0 10000
14 vacuum_defer_cleanup_age integer - 0 1000000
14,17,18 vacuum_failsafe_age integer - 0 2100000000
14,17,18 vacuum_freeze_min_age integer - 0 1000000000
14,17,18 vacuum_freeze_table_age integer - 0 2000000000
18 vacuum_max_eager_freeze_failure_rate real - 0 1
14,17,18 vacuum_multixact_failsafe_age integer - 0 2100000000
14,17,18 vacuum_multixact_freeze_min_age integer - 0 1000000000
14,17,18 vacuum_multixact_freeze_table_age integer - 0 2000000000
14,17,18 wal_buffers integer 8kB -1 262143
17,18 wal_compression enum pglz,lz4,zstd,on,off,true,false,yes,no,1,0
17,18 wal_decode_buffer_size integer B 65536 1073741823
14,17,18 wal_keep_size integer MB 0 2147483647
14,17,18 wal_level enum minimal,replica,logical,archive,hot_standby
14,17,18 wal_receiver_status_interval integer s 0 2147483
14,17,18 wal_receiver_timeout integer ms 0 2147483647
14,17,18 wal_retrieve_retry_interval integer ms 1 2147483647
14,17,18 wal_sender_timeout integer ms 0 2147483647
14,17,18 wal_skip_threshold integer kB 0 2147483647
17,18 wal_summary_keep_time integer min 0 35791394
14,17,18 wal_sync_method enum fsync,fdatasync,open_sync,open_datasync
14,17,18 wal_writer_delay integer ms 1 10000
14,17,18 wal_writer_flush_after integer 8kB 0 2147483647
14,17,18 work_mem integer kB 64 2147483647
14,17,18 xmlbinary enum base64,hex
14,17,18 xmloption enum content,document
"""
