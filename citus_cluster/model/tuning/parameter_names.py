"""Names of PostgreSQL's and Citus' parameters: facts read from servers, no decisions.

Read from pg_settings of citusdata/citus:13.2.2 (PostgreSQL 17) and 14.0.1 (PostgreSQL 18) with citus and
pg_stat_statements loaded, and of postgres:14; Citus' parameters that pg_settings hides, from its
shared_library_init.c. A parameter whose type differs between versions counts as TEXT.
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


BOOLEAN = _names("""
    allow_alter_system allow_in_place_tablespaces allow_system_table_mods array_nulls autovacuum bonjour
    check_function_bodies citus.all_modifications_commutative
    citus.allow_modifications_from_workers_to_replicated_tables citus.allow_nested_distributed_execution
    citus.allow_unsafe_constraints citus.allow_unsafe_locks_from_workers citus.check_available_space_before_move
    citus.defer_drop_after_shard_move citus.defer_drop_after_shard_split citus.enable_alter_database_owner
    citus.enable_alter_role_propagation citus.enable_alter_role_set_propagation citus.enable_binary_protocol
    citus.enable_change_data_capture citus.enable_cluster_clock citus.enable_cost_based_connection_establishment
    citus.enable_create_database_propagation citus.enable_create_role_propagation
    citus.enable_create_type_propagation citus.enable_ddl_propagation citus.enable_deadlock_prevention
    citus.enable_fast_path_router_planner citus.enable_local_execution
    citus.enable_local_fast_path_query_optimization citus.enable_local_reference_table_foreign_keys
    citus.enable_manual_changes_to_shards citus.enable_metadata_sync
    citus.enable_non_colocated_router_query_pushdown citus.enable_outer_joins_with_pseudoconstant_quals_pre_pg17
    citus.enable_recurring_outer_join_pushdown citus.enable_repartition_joins
    citus.enable_repartitioned_insert_select citus.enable_router_execution citus.enable_schema_based_sharding
    citus.enable_single_hash_repartition_joins citus.enable_stat_counters citus.enable_statistics_collection
    citus.enable_unique_job_ids citus.enable_unsafe_triggers citus.enable_unsupported_feature_messages
    citus.enable_version_checks citus.enforce_foreign_key_restrictions
    citus.enforce_object_restrictions_for_local_objects citus.explain_all_tasks citus.explain_distributed_queries
    citus.force_max_query_parallelization citus.function_opens_transaction_block citus.hide_citus_dependent_objects
    citus.log_distributed_deadlock_detection citus.log_intermediate_results citus.log_local_commands
    citus.log_multi_join_order citus.log_remote_commands citus.override_table_visibility
    citus.prevent_incomplete_connection_establishment citus.propagate_session_settings_for_loopback_connection
    citus.replicate_reference_tables_on_activate citus.running_under_citus_test_suite
    citus.select_opens_transaction_block citus.skip_advisory_lock_permission_checks citus.skip_constraint_validation
    citus.skip_jsonb_validation_in_copy citus.sort_returning citus.subquery_pushdown citus.use_citus_managed_tables
    citus.writable_standby_coordinator data_sync_retry db_user_namespace debug_pretty_print debug_print_parse
    debug_print_plan debug_print_rewritten default_transaction_deferrable default_transaction_read_only
    enable_async_append enable_bitmapscan enable_distinct_reordering enable_gathermerge enable_group_by_reordering
    enable_hashagg enable_hashjoin enable_incremental_sort enable_indexonlyscan enable_indexscan enable_material
    enable_memoize enable_mergejoin enable_nestloop enable_parallel_append enable_parallel_hash
    enable_partition_pruning enable_partitionwise_aggregate enable_partitionwise_join enable_presorted_aggregate
    enable_self_join_elimination enable_seqscan enable_sort enable_tidscan escape_string_warning event_triggers
    exit_on_error fsync full_page_writes geqo gss_accept_delegation hot_standby hot_standby_feedback
    ignore_checksum_failure ignore_invalid_pages ignore_system_indexes jit jit_debugging_support jit_dump_bitcode
    jit_expressions jit_profiling_support jit_tuple_deforming krb_caseins_users lo_compat_privileges log_checkpoints
    log_disconnections log_duration log_executor_stats log_hostname log_lock_failures log_lock_waits
    log_parser_stats log_planner_stats log_recovery_conflict_waits log_replication_commands log_statement_stats
    log_truncate_on_rotation logging_collector md5_password_warnings parallel_leader_participation
    pg_stat_statements.save pg_stat_statements.track_planning pg_stat_statements.track_utility quote_all_identifiers
    recovery_target_inclusive remove_temp_files_after_crash restart_after_crash row_security send_abort_for_crash
    send_abort_for_kill ssl ssl_passphrase_command_supports_reload ssl_prefer_server_ciphers
    standard_conforming_strings summarize_wal sync_replication_slots synchronize_seqscans syslog_sequence_numbers
    syslog_split_messages trace_connection_negotiation trace_notify trace_sort track_activities
    track_commit_timestamp track_cost_delay_timing track_counts track_io_timing track_wal_io_timing
    transaction_deferrable transaction_read_only transform_null_equals update_process_title vacuum_truncate
    wal_init_zero wal_log_hints wal_receiver_create_temp_slot wal_recycle zero_damaged_pages
""")
"""Booleans: on or off."""

INTEGER = _names("""
    autovacuum_analyze_threshold autovacuum_freeze_max_age autovacuum_max_workers
    autovacuum_multixact_freeze_max_age autovacuum_vacuum_cost_limit autovacuum_vacuum_insert_threshold
    autovacuum_vacuum_max_threshold autovacuum_vacuum_threshold autovacuum_worker_slots bgwriter_lru_maxpages
    citus.cpu_priority citus.isolation_test_session_process_id citus.isolation_test_session_remote_process_id
    citus.limit_clause_row_fetch_count citus.local_shared_pool_size citus.max_adaptive_executor_pool_size
    citus.max_background_task_executors citus.max_background_task_executors_per_node
    citus.max_cached_conns_per_worker citus.max_client_connections citus.max_high_priority_background_processes
    citus.max_rebalancer_logged_ignored_moves citus.max_shared_pool_size citus.max_worker_nodes_tracked
    citus.next_cleanup_record_id citus.next_operation_id citus.next_placement_id citus.next_shard_id
    citus.repartition_join_bucket_count_per_node citus.shard_count citus.shard_replication_factor
    citus.stat_statements_max citus.stat_tenants_limit citus.stat_tenants_period
    citus.values_materialization_threshold columnar.chunk_group_row_limit columnar.compression_level
    columnar.stripe_row_limit commit_delay commit_siblings debug_discard_caches default_statistics_target
    effective_io_concurrency extra_float_digits from_collapse_limit geqo_effort geqo_generations geqo_pool_size
    geqo_threshold gin_fuzzy_search_limit io_max_concurrency io_workers join_collapse_limit log_file_mode
    maintenance_io_concurrency max_active_replication_origins max_connections max_files_per_process
    max_locks_per_transaction max_logical_replication_workers max_notify_queue_pages
    max_parallel_apply_workers_per_subscription max_parallel_maintenance_workers max_parallel_workers
    max_parallel_workers_per_gather max_pred_locks_per_page max_pred_locks_per_relation
    max_pred_locks_per_transaction max_prepared_transactions max_replication_slots max_sync_workers_per_subscription
    max_wal_senders max_worker_processes pg_stat_statements.max port reserved_connections scram_iterations
    superuser_reserved_connections tcp_keepalives_count unix_socket_permissions vacuum_cost_limit
    vacuum_cost_page_dirty vacuum_cost_page_hit vacuum_cost_page_miss vacuum_defer_cleanup_age vacuum_failsafe_age
    vacuum_freeze_min_age vacuum_freeze_table_age vacuum_multixact_failsafe_age vacuum_multixact_freeze_min_age
    vacuum_multixact_freeze_table_age
""")
"""Whole numbers without a unit."""

REAL = _names("""
    autovacuum_analyze_scale_factor autovacuum_vacuum_insert_scale_factor autovacuum_vacuum_scale_factor
    bgwriter_lru_multiplier checkpoint_completion_target citus.count_distinct_error_rate
    citus.desired_percent_disk_available_after_move citus.distributed_deadlock_detection_factor
    citus.stat_tenants_untracked_sample_rate cpu_index_tuple_cost cpu_operator_cost cpu_tuple_cost
    cursor_tuple_fraction geqo_seed geqo_selection_bias hash_mem_multiplier jit_above_cost jit_inline_above_cost
    jit_optimize_above_cost log_statement_sample_rate log_transaction_sample_rate parallel_setup_cost
    parallel_tuple_cost random_page_cost recursive_worktable_factor seq_page_cost
    vacuum_max_eager_freeze_failure_rate
""")
"""Numbers without a unit."""

MEMORY = _names("""
    autovacuum_work_mem backend_flush_after bgwriter_flush_after checkpoint_flush_after
    citus.copy_switchover_threshold citus.local_copy_flush_threshold citus.max_intermediate_result_size
    citus.max_matview_size_to_auto_recreate citus.rebalancer_by_disk_size_base_cost
    citus.remote_copy_flush_threshold commit_timestamp_buffers effective_cache_size gin_pending_list_limit
    huge_page_size io_combine_limit io_max_combine_limit log_parameter_max_length log_parameter_max_length_on_error
    log_rotation_size log_temp_files logical_decoding_work_mem maintenance_work_mem max_slot_wal_keep_size
    max_stack_depth max_wal_size min_dynamic_shared_memory min_parallel_index_scan_size min_parallel_table_scan_size
    min_wal_size multixact_member_buffers multixact_offset_buffers notify_buffers serializable_buffers
    shared_buffers subtransaction_buffers temp_buffers temp_file_limit track_activity_query_size transaction_buffers
    vacuum_buffer_usage_limit wal_buffers wal_decode_buffer_size wal_keep_size wal_skip_threshold
    wal_writer_flush_after work_mem
""")
"""Sizes: a number with B, kB, MB, GB or TB."""

TIME = _names("""
    archive_timeout authentication_timeout autovacuum_naptime autovacuum_vacuum_cost_delay bgwriter_delay
    checkpoint_timeout checkpoint_warning citus.background_task_queue_interval citus.defer_shard_delete_interval
    citus.executor_slow_start_interval citus.logical_replication_timeout citus.max_cached_connection_lifetime
    citus.metadata_sync_interval citus.metadata_sync_retry_interval citus.node_connection_timeout
    citus.recover_2pc_interval citus.remote_task_check_interval citus.stat_statements_purge_interval
    client_connection_check_interval deadlock_timeout idle_in_transaction_session_timeout
    idle_replication_slot_timeout idle_session_timeout lock_timeout log_autovacuum_min_duration
    log_min_duration_sample log_min_duration_statement log_rotation_age log_startup_progress_interval
    max_standby_archive_delay max_standby_streaming_delay old_snapshot_threshold post_auth_delay pre_auth_delay
    recovery_min_apply_delay statement_timeout tcp_keepalives_idle tcp_keepalives_interval tcp_user_timeout
    transaction_timeout vacuum_cost_delay wal_receiver_status_interval wal_receiver_timeout
    wal_retrieve_retry_interval wal_sender_timeout wal_summary_keep_time wal_writer_delay
""")
"""Durations: a number with us, ms, s, min, h or d."""

TEXT = _names("""
    application_name archive_cleanup_command archive_command archive_library archive_mode backslash_quote
    backtrace_functions bonjour_name bytea_output citus.cluster_name citus.coordinator_aggregation_strategy
    citus.cpu_priority_for_logical_replication_senders citus.create_object_propagation
    citus.enable_manual_metadata_changes_for_user citus.explain_analyze_sort_method citus.grep_remote_commands
    citus.hide_shards_from_app_name_prefixes citus.local_hostname citus.local_table_join_policy
    citus.metadata_sync_mode citus.mitmfifo citus.multi_shard_modify_mode citus.multi_task_query_log_level
    citus.node_conninfo citus.propagate_set_commands citus.replication_model citus.show_shards_for_app_name_prefixes
    citus.stat_statements_track citus.stat_tenants_log_level citus.stat_tenants_track citus.superuser
    citus.task_assignment_policy citus.task_executor_type citus.use_secondary_nodes citus.worker_min_messages
    client_encoding client_min_messages cluster_name columnar.compression columnar.planner_debug_level
    composite_type_mismatch compute_query_id config_file constraint_exclusion createrole_self_grant data_directory
    datestyle debug_io_direct debug_logical_replication_streaming debug_parallel_query default_table_access_method
    default_tablespace default_text_search_config default_toast_compression default_transaction_isolation
    dynamic_library_path dynamic_shared_memory_type event_source extension_control_path extension_destdir
    external_pid_file file_copy_method file_extend_method force_parallel_mode hba_file huge_pages
    icu_validation_level ident_file intervalstyle io_method jit_provider krb_server_keyfile lc_messages lc_monetary
    lc_numeric lc_time listen_addresses local_preload_libraries log_connections log_destination log_directory
    log_error_verbosity log_filename log_line_prefix log_min_error_statement log_min_messages log_statement
    log_timezone oauth_validator_libraries output_plugin_libraries password_encryption pg_stat_statements.track
    plan_cache_mode primary_conninfo primary_slot_name promote_trigger_file recovery_end_command
    recovery_init_sync_method recovery_prefetch recovery_target recovery_target_action recovery_target_lsn
    recovery_target_name recovery_target_time recovery_target_timeline recovery_target_xid restore_command
    restrict_nonsystem_relation_kind search_path session_preload_libraries session_replication_role
    shared_memory_type shared_preload_libraries ssl_ca_file ssl_cert_file ssl_ciphers ssl_crl_dir ssl_crl_file
    ssl_dh_params_file ssl_ecdh_curve ssl_groups ssl_key_file ssl_max_protocol_version ssl_min_protocol_version
    ssl_passphrase_command ssl_tls13_ciphers stats_fetch_consistency stats_temp_directory synchronized_standby_slots
    synchronous_commit synchronous_standby_names syslog_facility syslog_ident temp_tablespaces timezone
    timezone_abbreviations trace_recovery_messages track_functions transaction_isolation unix_socket_directories
    unix_socket_group wal_compression wal_consistency_checking wal_level wal_sync_method xmlbinary xmloption
""")
"""Strings and enumerations; also where the type differs between versions."""

INTERNAL = _names("""
    block_size citus.version data_checksums data_directory_mode debug_assertions huge_pages_status in_hot_standby
    integer_datetimes lc_collate lc_ctype max_function_args max_identifier_length max_index_keys num_os_semaphores
    segment_size server_encoding server_version server_version_num shared_memory_size
    shared_memory_size_in_huge_pages ssl_library wal_block_size wal_segment_size
""")
"""Read-only: fixed when the server was built or its data directory was created."""

POSTMASTER = _names("""
    archive_mode autovacuum_freeze_max_age autovacuum_max_workers autovacuum_multixact_freeze_max_age
    autovacuum_worker_slots bonjour bonjour_name citus.max_worker_nodes_tracked citus.stat_statements_max
    citus.stat_tenants_limit cluster_name commit_timestamp_buffers config_file data_directory data_sync_retry
    debug_io_direct dynamic_shared_memory_type event_source external_pid_file hba_file hot_standby huge_page_size
    huge_pages ident_file ignore_invalid_pages io_max_combine_limit io_max_concurrency io_method jit_provider
    listen_addresses logging_collector max_active_replication_origins max_connections max_files_per_process
    max_locks_per_transaction max_logical_replication_workers max_notify_queue_pages max_pred_locks_per_transaction
    max_prepared_transactions max_replication_slots max_wal_senders max_worker_processes min_dynamic_shared_memory
    multixact_member_buffers multixact_offset_buffers notify_buffers old_snapshot_threshold pg_stat_statements.max
    port recovery_target recovery_target_action recovery_target_inclusive recovery_target_lsn recovery_target_name
    recovery_target_time recovery_target_timeline recovery_target_xid reserved_connections serializable_buffers
    shared_buffers shared_memory_type shared_preload_libraries subtransaction_buffers superuser_reserved_connections
    trace_connection_negotiation track_activity_query_size track_commit_timestamp transaction_buffers
    unix_socket_directories unix_socket_group unix_socket_permissions wal_buffers wal_decode_buffer_size wal_level
    wal_log_hints
""")
"""Parameters that take effect only at a restart; all others at a reload."""

ONLY_14 = _names("""
    db_user_namespace force_parallel_mode lc_collate lc_ctype old_snapshot_threshold promote_trigger_file
    stats_temp_directory trace_recovery_messages vacuum_defer_cleanup_age
""")
"""Known to PostgreSQL 14, removed by 17."""

NOT_IN_14 = _names("""
    allow_alter_system archive_library commit_timestamp_buffers createrole_self_grant debug_io_direct
    debug_logical_replication_streaming debug_parallel_query enable_group_by_reordering enable_presorted_aggregate
    event_triggers file_extend_method gss_accept_delegation huge_pages_status icu_validation_level io_combine_limit
    log_startup_progress_interval max_notify_queue_pages max_parallel_apply_workers_per_subscription
    multixact_member_buffers multixact_offset_buffers notify_buffers output_plugin_libraries recovery_prefetch
    recursive_worktable_factor reserved_connections scram_iterations send_abort_for_crash send_abort_for_kill
    serializable_buffers shared_memory_size shared_memory_size_in_huge_pages stats_fetch_consistency
    subtransaction_buffers summarize_wal sync_replication_slots synchronized_standby_slots
    trace_connection_negotiation transaction_buffers transaction_timeout vacuum_buffer_usage_limit
    wal_decode_buffer_size wal_summary_keep_time
""")
"""Known to PostgreSQL 17 and 18, not to 14."""

ONLY_17 = _names("""
    composite_type_mismatch extension_destdir
""")
"""Known to PostgreSQL 17, not to 14 and 18."""

NOT_IN_18 = _names("""
    ssl_ecdh_curve
""")
"""Known to PostgreSQL 14 and 17, removed in 18."""

ONLY_18 = _names("""
    autovacuum_vacuum_max_threshold autovacuum_worker_slots enable_distinct_reordering enable_self_join_elimination
    extension_control_path file_copy_method idle_replication_slot_timeout io_max_combine_limit io_max_concurrency
    io_method io_workers log_lock_failures max_active_replication_origins md5_password_warnings num_os_semaphores
    oauth_validator_libraries ssl_groups ssl_tls13_ciphers track_cost_delay_timing
    vacuum_max_eager_freeze_failure_rate vacuum_truncate
""")
"""Known to PostgreSQL 18, not to 14 and 17."""

CONNINFO_KEYS = _names("""
    connect_timeout gsslib host keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname sslcert
    sslcompression sslcrl sslkey sslkeylogfile sslmode sslnegotiation sslrootcert tcp_user_timeout
""")
"""Keys that citus.node_conninfo takes (shared_library_init.c, NodeConninfoGucCheckHook)."""
