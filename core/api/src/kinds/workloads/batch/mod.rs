//! What runs pods to their end.
//!
//! - [`job`], [`job_spec`], [`job_policies`], [`job_update`], [`job_status`]: jobs
//! - [`cron_job`], [`schedule`]: jobs that are made again and again

mod cron_job;
mod job;
mod job_policies;
mod job_spec;
mod job_status;
mod job_update;
mod schedule;

pub(super) use self::cron_job::CronJob;
pub(super) use self::job::Job;
