// embedseg-large as a Nextflow module: labels of one image, or masks of a folder.
//
//   include { EMBEDSEG_LARGE_SEGMENT } from './integrations/nextflow/main'
//   EMBEDSEG_LARGE_SEGMENT(Channel.of([[id: 'embryo'], file('embryo.ome.tif')]))

process EMBEDSEG_LARGE_SEGMENT {
    tag "${meta.id}"
    label 'process_high'

    container 'embedseg-large:0.1.0'

    input:
    tuple val(meta), path(image)

    output:
    tuple val(meta), path("${prefix}_masks")                  , emit: masks
    tuple val(meta), path("${prefix}_masks/images.csv")       , emit: table
    tuple val(meta), path("${prefix}_masks/contact_sheet.jpg"), emit: contact_sheet, optional: true
    tuple val(meta), path("${prefix}.json")                   , emit: summary
    path 'versions.yml'                                       , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    embedseg-large segment \\
        ${image} \\
        --out ${prefix}_masks \\
        --json \\
        ${args} > ${prefix}.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        embedseg-large: \$(embedseg-large --version | sed 's/embedseg-large //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir ${prefix}_masks
    touch ${prefix}_masks/images.csv ${prefix}.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        embedseg-large: stub
    END_VERSIONS
    """
}
