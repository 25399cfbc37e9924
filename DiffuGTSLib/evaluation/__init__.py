"""Scores of masks against references: overlap and surfaces, lesions found and missed, baselines, tables.

    `evaluate`, `validate`   run, validation; protocol_cases, case_scores, baselines, provenance
    figures                  metrics, detection, lesion_metrics, froc, calibration, pooled, intervals
    tables and pages         report, html_report, html_parts, charts, case_picture, card_tables
    comparisons              comparison and comparison_page of two reports, strata of groups of patients
    `ablate`                 ablation, ablation_variants, ablation_measure, ablation_report, ablation_page
    `study`                  case_files, size_sensitivity, false_positives, detection_table, robustness and robustness_score,
                             tumor_list, similarity, radiomics, realism

Nothing is imported here, so that reading a table does not load torch.
"""
